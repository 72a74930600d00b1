//! The behaviours of hostile guests, one function each, and the expected ends of each.

/// The ends that a call may have: HTTP status and problem type.
pub type Ends = &'static [(u16, &'static str)];

const STOPPED: Ends = &[(504, "timeout")];
const TRAPS: Ends = &[(500, "trap")];
const NO_MEMORY: Ends = &[(500, "memory-limit")];
/// Growing takes time: on a busy machine the timeout comes first.
const NO_MEMORY_OR_STOPPED: Ends = &[(500, "memory-limit"), (504, "timeout")];
const NO_HANDLES_OR_STOPPED: Ends = &[(500, "trap"), (504, "timeout")];
const TOO_LARGE_OR_STOPPED: Ends = &[(502, "response-too-large"), (504, "timeout")];
/// The host call failed, and the guest returned that as its error.
const GUEST_ERROR: Ends = &[(502, "guest-error")];
const GUEST_ERROR_OR_STOPPED: Ends = &[(502, "guest-error"), (504, "timeout")];
/// The response had begun, and is truncated.
const CUT_OFF: Ends = &[(200, CUT)];
const TRAPS_OR_CUT_OFF: Ends = &[(500, "trap"), (200, CUT)];
const TOO_LARGE: Ends = &[(502, "response-too-large")];
const ANSWERS: Ends = &[(200, "")];
/// The plugin never became ready: its module, or its start functions, were refused.
const NOT_READY: Ends = &[(503, "not-ready")];

/// The type, in place of a problem's, of a response whose body is truncated.
pub const CUT: &str = "cut-off";
/// A body that is never sent.
pub const WITHHELD: &str = "WITHHELD";
/// In a body: the host and port of the hostile upstream.
pub const UPSTREAM: &str = "UPSTREAM";

/// A module in `tests/guests/hostile` (or one of the plugins `web`, `out` and `files`), a function of it, the body of a
/// call, and the ends that this may have.
pub type Behaviour = (&'static str, &'static str, &'static str, Ends);

/// All behaviours.
#[rustfmt::skip]
pub const BEHAVIOURS: &[Behaviour] = &[
    ("cpu", "spin", "", STOPPED),
    ("cpu", "spin-on-floats", "", STOPPED),
    ("cpu", "spin-on-calls", "", STOPPED),
    ("cpu", "spin-through-a-table", "", STOPPED),
    ("cpu", "spin-on-tail-calls", "", STOPPED),
    ("cpu", "recurse", "", TRAPS),
    ("cpu", "recurse-in-turns", "", TRAPS),
    ("cpu", "recurse-with-large-frames", "[1, 2, 3, 4]", TRAPS),
    ("cpu", "fork", "[1000]", STOPPED),
    ("cpu", "call-nothing", "", TRAPS),
    ("cpu", "call-past-the-table", "", TRAPS),
    ("cpu", "call-by-a-wrong-type", "", TRAPS),
    ("cpu", "divide-by-zero", "[0]", TRAPS),
    ("cpu", "overflow", "", TRAPS),
    ("cpu", "make-nan-a-number", "", TRAPS),
    ("cpu", "give-up", "", TRAPS),

    ("memory", "fill", "", STOPPED),
    ("memory", "copy", "", STOPPED),
    ("memory", "fill-past-the-end", "", TRAPS),
    ("memory", "copy-past-the-end", "", TRAPS),
    ("memory", "touch-every-page", "", STOPPED),
    ("memory", "grow-and-mind", "", NO_MEMORY),
    ("memory", "grow-and-ignore", "", NO_MEMORY),
    ("memory", "grow-by-all-there-is", "", NO_MEMORY),
    ("memory", "grow-by-nothing", "", STOPPED),
    ("memory", "grow-a-table", "", TRAPS),
    ("memory", "grow-a-table-by-all-there-is", "", TRAPS),
    ("memory", "fill-a-table", "", STOPPED),
    ("memory", "fill-past-a-table", "", TRAPS),
    ("memory", "load-past-the-end", "", TRAPS),
    ("memory", "load-far-past-the-end", "", TRAPS),
    ("memory", "load-one-past-the-end", "", TRAPS),
    ("memory", "store-past-the-end", "", TRAPS),
    ("memory", "load-misaligned", "", TRAPS),
    ("memory", "add-misaligned", "", TRAPS),
    ("memory", "wait", "", TRAPS),

    ("heap", "keep", "", NO_MEMORY_OR_STOPPED),
    ("heap", "litter", "", STOPPED),
    ("heap", "take-one-huge-thing", "", TRAPS),
    ("heap", "fill-past-the-end", "", TRAPS),
    ("heap", "follow-null", "", TRAPS),
    ("heap", "cast-what-it-is-not", "", TRAPS),

    ("exceptions", "throw", "", TRAPS),
    ("exceptions", "throw-nothing", "", TRAPS),
    ("exceptions", "throw-and-catch-without-end", "", STOPPED),
    ("exceptions", "keep-every-exception", "", STOPPED),
    ("exceptions", "throw-from-the-depths", "[1000]", TRAPS),

    ("stack-switching", "run", "", NOT_READY),
    ("start-spin", "f", "", NOT_READY),
    ("start-grow", "f", "", NOT_READY),
    ("initialize-spin", "f", "", NOT_READY),
    ("initialize-recurse", "f", "", NOT_READY),
    ("too-large", "f", "", NOT_READY),
    ("trio-init-spin", "process-data", "", NOT_READY),

    ("alloc-past-the-end", "f", "x", TRAPS),
    ("alloc-spin", "f", "x", STOPPED),
    ("alloc-trap", "f", "x", TRAPS),
    ("answers", "past-the-end", "x", TRAPS),
    ("answers", "across-the-end", "x", TRAPS),
    ("answers", "all-of-4-gib", "x", TOO_LARGE),
    ("answers", "wrapping", "x", TOO_LARGE),
    ("answers", "too-long", "x", TOO_LARGE),
    ("trio", "process-data", "x", TOO_LARGE),
    ("cleanup-spin", "process-data", "x", STOPPED),
    ("heap-base", "f", "{}", TRAPS),

    ("wasi", "poll-without-waiting", "", STOPPED),
    ("wasi", "sleep-for-an-hour", "", STOPPED),
    ("wasi", "sleep-for-ever", "", STOPPED),
    ("wasi", "poll-for-everything", "", ANSWERS),
    ("wasi", "poll-past-the-end", "", ANSWERS),
    ("wasi", "poll-for-nothing", "", STOPPED),
    ("wasi", "log-control-characters", "", ANSWERS),
    ("wasi", "flood-the-log", "", STOPPED),
    ("wasi", "flood-the-log-without-newlines", "", STOPPED),
    ("wasi", "write-past-the-end", "", TRAPS),
    ("wasi", "write-4-gib", "", ANSWERS),
    ("wasi", "write-from-lists-past-the-end", "", ANSWERS),
    ("wasi", "write-from-lists-without-end", "", ANSWERS),
    ("wasi", "write-to-stdin", "", ANSWERS),
    ("wasi", "write-to-what-is-not-open", "", ANSWERS),
    ("wasi", "read-for-ever", "", STOPPED),
    ("wasi", "close-everything", "", ANSWERS),
    ("wasi", "renumber-everything", "", STOPPED),
    ("wasi", "open-a-file", "", TRAPS),
    ("wasi", "random-without-end", "", STOPPED),
    ("wasi", "random-of-1-gib", "", TRAPS),
    ("wasi", "random-past-the-end", "", TRAPS),
    ("wasi", "ask-the-time-for-ever", "", STOPPED),
    ("wasi", "ask-the-time-past-the-end", "", TRAPS),
    ("wasi", "ask-the-time-misaligned", "", TRAPS),
    ("wasi", "ask-a-clock-that-is-not-there", "", TRAPS),
    ("wasi", "arguments-past-the-end", "", ANSWERS),
    ("wasi", "yield-for-ever", "", STOPPED),
    ("wasi", "exit", "", TRAPS),
    ("wasi", "exit-as-no-process-can", "", TRAPS),
    ("flood", "run", "", TOO_LARGE_OR_STOPPED),
    ("complain", "run", "", STOPPED),

    ("dataflare", "log-control-characters", "", ANSWERS),
    ("dataflare", "log-past-the-end", "", TRAPS),
    ("dataflare", "log-4-gib", "", TRAPS),
    ("dataflare", "log-at-a-level-past-the-end", "", TRAPS),
    ("dataflare", "log-for-ever", "", STOPPED),
    ("dataflare", "random-below-nothing", "", ANSWERS),
    ("dataflare", "random-below-everything", "", ANSWERS),

    ("lies", "text-past-the-end", "", TRAPS),
    ("lies", "text-of-4-gib", "", TRAPS),
    ("lies", "text-that-is-none", "", TRAPS),
    ("lies", "text-of-another-encoding", "", ANSWERS),
    ("lies", "list-past-the-end", "", TRAPS),
    ("lies", "list-of-4-gib", "", TRAPS),
    ("lies", "answer-at-no-address", "", TRAPS),
    ("lies", "answer-at-an-odd-address", "", TRAPS),
    ("lies", "list-at-an-odd-address", "", TRAPS),
    ("lies", "megabytes-out-of-kilobytes", "", TRAPS),
    ("lies", "enum-that-is-none", "", TRAPS),
    ("lies", "flags-that-are-none", "", ANSWERS),
    ("lies", "char-that-is-none", "", TRAPS),
    ("lies", "bool-that-is-none", "", ANSWERS),
    ("lies", "u8-that-is-none", "", ANSWERS),
    ("lies", "variant-at-an-odd-address", "", TRAPS),

    ("realloc", "realloc-traps", r#"["x"]"#, TRAPS),
    ("realloc", "realloc-spins", r#"["x"]"#, STOPPED),
    ("realloc", "realloc-past-the-end", r#"["x"]"#, TRAPS),
    ("realloc", "realloc-misaligned", "[[1, 2]]", TRAPS),
    ("realloc", "realloc-over-itself", r#"[["x", "y"]]"#, ANSWERS),
    ("realloc", "post-return-traps", "", TRAPS),
    ("realloc", "post-return-spins", "", STOPPED),

    ("handles", "keep-handles", "", NO_HANDLES_OR_STOPPED),
    ("handles", "drop-twice", "", TRAPS),
    ("handles", "drop-what-is-not-there", "", TRAPS),
    ("handles", "keep-pollables", "", NO_HANDLES_OR_STOPPED),
    ("handles", "random-of-one-gib", "", TRAPS),
    ("handles", "random-of-everything", "", TRAPS),
    ("handles", "random-again-and-again", "", TRAPS),

    ("web", "hang", "", STOPPED),
    ("web", "spin", "", STOPPED),
    ("web", "silent", "", TRAPS),
    ("web", "trap", "", TRAPS),
    ("web", "count", WITHHELD, STOPPED),
    ("web", "echo", WITHHELD, CUT_OFF),
    ("web", "stream?1000000000000", "", CUT_OFF),
    ("web", "slowly?600000", "", CUT_OFF),
    ("web", "half?1", "", CUT_OFF),
    ("web", "short", "", TRAPS),
    ("web", "leave", "", TRAPS_OR_CUT_OFF),
    ("web", "linger?600000", "", ANSWERS),
    ("web", "headers?1000000", "", TRAPS),
    ("web", "handles?1000000000", "", NO_HANDLES_OR_STOPPED),
    ("web", "grow?100000000", "", NO_MEMORY),

    ("out", "fetch", r#"["http", "UPSTREAM", "/never-answers"]"#, STOPPED),
    ("out", "fetch", r#"["http", "UPSTREAM", "/drips-its-head"]"#, STOPPED),
    ("out", "fetch", r#"["http", "UPSTREAM", "/drips-its-body"]"#, STOPPED),
    ("out", "fetch", r#"["http", "UPSTREAM", "/headers-without-end"]"#, GUEST_ERROR),
    ("out", "fetch", r#"["http", "UPSTREAM", "/one-header-without-end"]"#, GUEST_ERROR),
    ("out", "fetch", r#"["http", "UPSTREAM", "/hints-without-end"]"#, GUEST_ERROR_OR_STOPPED),
    ("out", "fetch", r#"["http", "UPSTREAM", "/body-without-end"]"#, GUEST_ERROR_OR_STOPPED),
    ("out", "fetch", r#"["http", "UPSTREAM", "/chunks-without-end"]"#, GUEST_ERROR_OR_STOPPED),
    ("out", "fetch", r#"["http", "UPSTREAM", "/half-a-body"]"#, GUEST_ERROR),
    ("out", "fetch", r#"["http", "UPSTREAM", "/no-http"]"#, GUEST_ERROR),
    ("out", "fetch", r#"["http", "UPSTREAM", "/redirects-to-itself"]"#, GUEST_ERROR),
    ("out", "fetch", r#"["http", "UPSTREAM", "/hangs-up"]"#, GUEST_ERROR),
    ("out", "storm", r#"["UPSTREAM", 1000]"#, STOPPED),
    ("out", "storm", r#"["UPSTREAM", 100000]"#, NO_HANDLES_OR_STOPPED),
    ("out", "send", r#"["POST", "UPSTREAM", ""]"#, STOPPED),
    ("out", "connect", r#"["127.0.0.1", 1, ""]"#, GUEST_ERROR),
    ("out", "hoard", "[1000000]", ANSWERS),

    ("files", "run", "fill\t/tmp/x\t1000000000", NO_MEMORY),
    ("files", "run", "many\t/tmp\t100000000", ANSWERS),
    ("files", "run", "write\t/tmp/x\tx\nopen-many\t/tmp/x", ANSWERS),
    ("files", "run", "mkdir\t/tmp/a\nrename\t/tmp/a\t/tmp/a/b", ANSWERS),
    ("files", "run", WITHHELD, STOPPED),
];
