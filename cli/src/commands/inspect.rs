//! `samovar inspect`: reports a module's exports, imports and the grants that it needs, without deploying it.

use std::fmt::{self, Write as _};

use bytes::Bytes;
use samovar_runtime::{Abi, ArtifactCache, Compiler, Engine, EngineOptions, Inspection, Kind, ModuleDigest};
use serde::Serialize;

use crate::{
    module::{self, RegistryArgs},
    output::{Failure, Output},
    progress,
};

/// Show a module's kind, sizes, functions with their types, and imports with the grants that they need.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A `.wasm` or `.wat` file, or an image reference.
    #[arg(value_name = "FILE|REF")]
    source: String,
    /// The path of the module, in an image with several.
    #[arg(long, value_name = "PATH")]
    module_path: Option<String>,
    #[command(flatten)]
    registry: RegistryArgs,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    kind: Kind,
    digest: String,
    module_bytes: usize,
    compiled_bytes: u64,
    functions: Vec<FunctionReport>,
    imports: Vec<ImportReport>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FunctionReport {
    name: String,
    export: String,
    abi: Option<&'static str>,
    signature: String,
    not_callable: Option<String>,
}

#[derive(Serialize)]
struct ImportReport {
    name: String,
    given: bool,
    grants: Vec<&'static str>,
    required: bool,
    note: &'static str,
}

pub(crate) async fn run(args: Args, output: Output) -> Result<(), Failure> {
    let wasm = module::from_either(&args.registry, &args.source, args.module_path.as_deref()).await?;
    let report = inspect(wasm).await?;
    output.print(&report, &report);
    Ok(())
}

async fn inspect(wasm: Vec<u8>) -> Result<Report, Failure> {
    let engine =
        Engine::new(&EngineOptions { instances: 1, ..EngineOptions::default() }).map_err(Failure::failed)?;
    let folder = tempfile::tempdir().map_err(Failure::failed)?;
    let cache = ArtifactCache::open(folder.path().to_owned(), engine, Compiler::InProcess)
        .map_err(Failure::failed)?;
    let (digest, module_bytes) = (ModuleDigest::of(&wasm), wasm.len());
    let spinner = progress::spinner("compiling");
    let artifact = cache.compile(&digest, Bytes::from(wasm)).await.map_err(Failure::bad_input)?;
    spinner.finish_and_clear();
    let Inspection { kind, functions, imports } = Inspection::of(&artifact);
    let functions = functions.iter().map(|function| FunctionReport {
        name: function.name().to_owned(),
        export: function.export().to_owned(),
        abi: function.abi().map(Abi::as_str),
        signature: function.signature().to_owned(),
        not_callable: function.not_callable().map(str::to_owned),
    });
    let imports = imports.into_iter().map(|import| ImportReport {
        name: import.name,
        given: import.provided,
        grants: import.grants,
        required: import.required,
        note: import.note,
    });
    Ok(Report {
        kind,
        digest: digest.to_string(),
        module_bytes,
        compiled_bytes: artifact.code_bytes(),
        functions: functions.collect(),
        imports: imports.collect(),
    })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Core => "core module",
            Kind::Component => "component",
        };
        writeln!(f, "{kind}, {} bytes, compiled {} bytes", self.module_bytes, self.compiled_bytes)?;
        write!(f, "{}\n\nFunctions", self.digest)?;
        for function in &self.functions {
            write!(f, "\n  {:<20} {}", function.name, function.signature)?;
            match (&function.abi, &function.not_callable) {
                (_, Some(why)) => write!(f, "\n  {:<20} cannot be called: {why}", "")?,
                (Some(abi), None) => {
                    write!(f, "\n  {:<20} {abi}, export {}", "", function.export)?;
                    if *abi == Abi::Http.as_str() {
                        f.write_str("; needs `type: Http`")?;
                    }
                }
                (None, None) => {}
            }
        }
        f.write_str("\n\nImports")?;
        if self.imports.is_empty() {
            f.write_str("\n  none")?;
        }
        for import in &self.imports {
            write!(f, "\n  {:<42} {}", import.name, import.note)?;
            if !import.grants.is_empty() {
                let without = if import.required { "; without it the module is refused" } else { "" };
                write!(f, "\n  {:<42} needs {}{without}", "", import.grants.join(" and "))?;
            }
        }
        f.write_char('\n')
    }
}
