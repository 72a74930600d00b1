//! `componentize CORE.wasm COMPONENT.wasm [--command]`: makes a component of a core module that holds its WIT.
//!
//! What the module imports of WASI preview 1 becomes WASI 0.2.

use anyhow::Context as _;
use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER,
    WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wit_component::ComponentEncoder;

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let usage = "usage: componentize CORE.wasm COMPONENT.wasm [--command]";
    let (core, component) = (args.next().context(usage)?, args.next().context(usage)?);
    let adapter = match args.next().as_deref() {
        Some("--command") => WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER,
        _ => WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
    };
    let module = std::fs::read(&core).with_context(|| core.clone())?;
    let bytes = ComponentEncoder::default()
        .validate(true)
        .module(&module)?
        .adapter(WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, adapter)?
        .encode()?;
    std::fs::write(&component, bytes).with_context(|| component)
}
