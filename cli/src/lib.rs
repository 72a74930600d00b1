//! The samovar command.
