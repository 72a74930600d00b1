//! Finds a plugin's functions among its module's exports: those that its spec names, or all of them.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use crate::{
    Abi, Artifact, CallError, FunctionRequest, Limits, LoadError,
    abi::Target,
    exports::{self, Export},
    gate::Gate,
    instance::Allowance,
    printable::sanitized,
};

/// One function of a plugin.
pub struct Function {
    name: String,
    export: String,
    signature: String,
    target: Result<Target, String>,
    timeout: Duration,
    allowance: Allowance,
    /// Entered before the plugin's own gate, if the function has a concurrency limit of its own.
    gate: Option<Gate>,
    request_bytes: u64,
    response_bytes: u64,
}

impl Function {
    /// The name of its endpoint.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The export that it calls: `demo:text/api#upper`, or a bare name.
    pub fn export(&self) -> &str {
        &self.export
    }

    /// The ABI of its export; `None` if it cannot be called.
    pub fn abi(&self) -> Option<Abi> {
        self.target.as_ref().ok().map(Target::abi)
    }

    /// Its type in WIT syntax: `func(text: string) -> string`.
    pub fn signature(&self) -> &str {
        &self.signature
    }

    /// The reason why it cannot be called; `None` if it can.
    pub fn not_callable(&self) -> Option<&str> {
        self.target.as_ref().err().map(String::as_str)
    }

    /// True if it accepts a body of plain bytes.
    pub fn takes_bytes(&self) -> bool {
        self.target.as_ref().is_ok_and(Target::takes_bytes)
    }

    /// The deadline of a call.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The largest request body, in bytes.
    pub fn request_bytes(&self) -> u64 {
        self.request_bytes
    }

    /// The largest answer, in bytes.
    pub fn response_bytes(&self) -> u64 {
        self.response_bytes
    }

    /// The most memory of an instance that serves it, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        self.allowance.memory
    }

    pub(crate) fn allowance(&self) -> &Allowance {
        &self.allowance
    }

    pub(crate) fn gate(&self) -> Option<&Gate> {
        self.gate.as_ref()
    }

    pub(crate) fn target(&self) -> Result<&Target, CallError> {
        self.target.as_ref().map_err(|why| CallError::NotCallable(why.clone()))
    }
}

impl Function {
    fn new(
        name: String,
        export: &Export,
        target: Result<Target, String>,
        request: &FunctionRequest,
        limits: &Limits,
    ) -> Self {
        let FunctionRequest { concurrency, queue, .. } = *request;
        let gate = (concurrency.is_some() || queue.is_some())
            .then(|| Gate::new(concurrency.unwrap_or(limits.concurrency), queue.unwrap_or(limits.queue)));
        Self {
            name,
            export: sanitized(export.full_name()),
            signature: sanitized(export.signature()),
            target,
            timeout: request.timeout.unwrap_or(limits.timeout),
            allowance: Allowance {
                memory: request.memory.unwrap_or(limits.memory),
                fuel: request.fuel.or(limits.fuel),
            },
            gate,
            request_bytes: request.request_bytes.unwrap_or(limits.request_bytes),
            response_bytes: request.response_bytes.unwrap_or(limits.response_bytes),
        }
    }
}

/// The most functions of a plugin whose spec names none: its status lists each, and etcd limits an object's size.
const MOST_FOUND: usize = 500;

/// The plugin's functions, in the order of the spec or of the exports. At least one of them can be called.
pub(crate) fn find(
    artifact: &Artifact,
    requests: &[FunctionRequest],
    limits: &Limits,
) -> Result<Vec<Arc<Function>>, LoadError> {
    let functions = if requests.is_empty() {
        let functions = every(artifact, limits);
        if functions.len() > MOST_FOUND {
            return Err(LoadError::ExportNotFound(format!(
                "the module exports {} functions, more than {MOST_FOUND}: list the ones to serve in spec.functions",
                functions.len()
            )));
        }
        functions
    } else {
        let exports = exports::of(artifact);
        requests
            .iter()
            .map(|request| requested(artifact, &exports, request, limits).map(Arc::new))
            .collect::<Result<Vec<_>, _>>()?
    };
    if functions.iter().all(|function| function.target.is_err()) {
        return Err(LoadError::ExportNotFound(match &functions[..] {
            [] => "the module exports no function".to_owned(),
            _ => sanitized(format_args!(
                "the module exports no function that can be called: {}",
                list(functions.iter().map(|function| {
                    format!("{} ({})", function.export, function.not_callable().unwrap_or_default())
                }))
            )),
        }));
    }
    Ok(functions)
}

/// The function name of a handler of HTTP requests. No endpoint has it.
const HTTP: &str = "http";

/// The component's handler of HTTP requests, of the newer WASI if it has both.
pub(crate) fn handler(artifact: &Artifact, limits: &Limits) -> Result<Function, LoadError> {
    let exports = exports::of(artifact);
    let handler =
        exports.iter().max_by_key(|export| export.handler()).filter(|export| export.handler().is_some());
    let handler = handler.ok_or_else(|| {
        let all = list(exports.iter().map(Export::full_name));
        LoadError::ExportNotFound(format!(
            "the module exports neither `wasi:http/incoming-handler` 0.2 nor `wasi:http/handler` 0.3, and `type: Http` needs one; \
             it exports {all}"
        ))
    })?;
    let target = handler.target(artifact, Some(Abi::Http), HTTP);
    Ok(Function::new(HTTP.to_owned(), handler, target, &FunctionRequest::default(), limits))
}

/// All exports, each under its own name, or under `interface.function` if two would share a name.
pub(crate) fn every(artifact: &Artifact, limits: &Limits) -> Vec<Arc<Function>> {
    let exports = exports::of(artifact);
    let mut sharing: HashMap<String, u32> = HashMap::new();
    for export in &exports {
        *sharing.entry(export.endpoint()).or_default() += 1;
    }
    let mut taken = HashSet::new();
    let function = |export: &Export| {
        let own = export.endpoint();
        let name = match export.interface() {
            Some(interface) if sharing[&own] > 1 => format!("{interface}.{own}"),
            _ => own,
        };
        let target = export.target(artifact, None, &name);
        let (name, target) = match target {
            // It has no endpoint; its full name stands beside the reason.
            Err(why) => (sanitized(export.full_name()), Err(sanitized(why))),
            Ok(_) if !name.split('.').all(is_label) => (
                sanitized(export.full_name()),
                Err("its name is no DNS label: give it one in spec.functions".to_owned()),
            ),
            Ok(_) if !taken.insert(name.clone()) => (
                sanitized(export.full_name()),
                Err(format!("another export has the name `{name}`: give it another one in spec.functions")),
            ),
            Ok(target) => (name, Ok(target)),
        };
        Arc::new(Function::new(name, export, target, &FunctionRequest::default(), limits))
    };
    exports.iter().map(function).collect()
}

/// Resolves a request to its export.
fn requested(
    artifact: &Artifact,
    exports: &[Export],
    request: &FunctionRequest,
    limits: &Limits,
) -> Result<Function, LoadError> {
    let name = &request.name;
    let matches = |export: &&Export| match &request.export {
        Some(wanted) => export.is_named(wanted),
        None if request.abi == Some(Abi::Command) => export.is_program(),
        None if request.abi == Some(Abi::WasmEngine) && export.is_program() => true,
        None => export.endpoint() == *name,
    };
    let found: Vec<_> = exports.iter().filter(matches).collect();
    let refuse = |why: String| LoadError::ExportNotFound(sanitized(format_args!("function `{name}`: {why}")));
    let names = |exports: &mut dyn Iterator<Item = &Export>| list(exports.map(Export::full_name));
    let export = match found[..] {
        [export] => export,
        [] => {
            let wanted = request.export.as_ref().unwrap_or(name);
            let all = names(&mut exports.iter());
            return Err(refuse(format!("the module has no export `{wanted}`; it exports {all}")));
        }
        _ => {
            let several = names(&mut found.iter().copied());
            return Err(refuse(format!("several exports have that name; set `export` to one of {several}")));
        }
    };
    let target = export
        .target(artifact, request.abi, name)
        .map_err(|why| refuse(format!("the export `{}` cannot be called: {why}", export.full_name())))?;
    Ok(Function::new(name.clone(), export, Ok(target), request, limits))
}

/// The most names that an error lists.
const LISTED: usize = 20;

fn list(names: impl Iterator<Item = String>) -> String {
    let mut names: Vec<_> = names.collect();
    let more = names.len().saturating_sub(LISTED);
    names.truncate(LISTED);
    match (names.is_empty(), more) {
        (true, _) => "nothing".to_owned(),
        (false, 0) => names.join(", "),
        (false, more) => format!("{} and {more} more", names.join(", ")),
    }
}

/// True if `name` is a DNS label, as an endpoint's name must be.
fn is_label(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends = [name.as_bytes().first(), name.as_bytes().last()];
    name.len() <= 63
        && name.bytes().all(|b| plain(b) || b == b'-')
        && ends.into_iter().all(|end| end.is_some_and(|&b| plain(b)))
}
