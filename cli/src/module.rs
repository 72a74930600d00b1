//! Loads a command's module from a file or a registry.

use std::path::{Path, PathBuf};

use samovar_registry::{Client, ClientOptions, Reference};

use crate::{output::Failure, progress};

/// Registry flags.
#[derive(Clone, clap::Args)]
pub(crate) struct RegistryArgs {
    /// A registry to reach over plain HTTP; loopback addresses always are. May be repeated.
    #[arg(long, value_name = "HOST:PORT")]
    insecure_registry: Vec<String>,
    /// The Docker `config.json` with registry credentials. Default: Docker's own, if there is one.
    #[arg(long, value_name = "FILE")]
    docker_config: Option<PathBuf>,
}

impl RegistryArgs {
    /// The client's options.
    pub(crate) fn options(&self) -> ClientOptions {
        let docker_config = self.docker_config.clone().or_else(|| {
            let folder = std::env::var_os("DOCKER_CONFIG")
                .map(PathBuf::from)
                .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".docker")))?;
            Some(folder.join("config.json")).filter(|file| file.is_file())
        });
        ClientOptions {
            insecure_registries: self.insecure_registry.clone(),
            docker_config,
            ..ClientOptions::default()
        }
    }

    /// Builds the registry client.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        Client::new(self.options()).map_err(Failure::bad_input)
    }
}

/// Reads a module from a file, and converts the text format to binary.
pub(crate) fn from_file(path: &Path) -> Result<Vec<u8>, Failure> {
    let bytes =
        std::fs::read(path).map_err(|error| Failure::bad_input(format!("{}: {error}", path.display())))?;
    match wat::parse_bytes(&bytes) {
        Ok(wasm) => Ok(wasm.into_owned()),
        Err(mut error) => {
            error.set_path(path);
            Err(Failure::bad_input(error))
        }
    }
}

/// Resolves and pulls a module; returns its pinned reference and its bytes.
pub(crate) async fn from_registry(
    args: &RegistryArgs,
    reference: &str,
    module_path: Option<&str>,
) -> Result<(Reference, Vec<u8>), Failure> {
    let reference: Reference = reference.parse().map_err(Failure::bad_input)?;
    let client = args.client()?;
    let pinned = client.resolve(&reference).await.map_err(Failure::failed)?;
    let bar = progress::bytes("pulling");
    let module = client.pull(&pinned, module_path, |so_far, total| {
        bar.set_length(total.unwrap_or(so_far));
        bar.set_position(so_far);
    });
    let module = module.await.map_err(Failure::failed)?;
    bar.finish_and_clear();
    Ok((pinned, module.bytes.to_vec()))
}

/// Loads a module from the file of this name, or, if there is none, from a registry.
pub(crate) async fn from_either(
    args: &RegistryArgs,
    source: &str,
    module_path: Option<&str>,
) -> Result<Vec<u8>, Failure> {
    let path = Path::new(source);
    let looks_like_file = path.extension().is_some_and(|extension| extension == "wasm" || extension == "wat");
    if path.is_file() || (looks_like_file && !source.contains(':')) {
        return from_file(path);
    }
    from_registry(args, source, module_path).await.map(|(_, bytes)| bytes)
}
