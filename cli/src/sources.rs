//! Reads the manifests and modules of `samovar run` and turns them into an agent's desired revisions.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
};

use samovar_crds::{Contents, Data, LocalObject, PluginTemplate, WasmPlugin, names};
use samovar_node_agent::{Desired, DesiredRevision, Key, Source};
use samovar_registry::{Client, Reference};
use samovar_runtime::ModuleDigest;

use crate::{
    manifest::{self, DataObject, Document},
    module,
};

/// A plugin's namespace and name.
type Name = (String, String);
/// A plugin with its module and its contents looked up.
type Resolved = (PluginTemplate, Source, Option<Arc<Contents>>);

/// The documents of all files, before anything is resolved.
#[derive(Default)]
struct Reading {
    plugins: Vec<(Name, PluginTemplate, Location)>,
    /// The ConfigMaps and Secrets of each namespace.
    objects: BTreeMap<String, BTreeMap<LocalObject, Data>>,
}

/// Prefix of an `image` that is a file, relative to its manifest.
const FILE: &str = "file:";

/// The files of `samovar run`, and the revisions of their last read.
pub(crate) struct Sources {
    paths: Vec<PathBuf>,
    namespace: String,
    registry: Client,
    /// The last two valid revisions of each plugin, newest last.
    plugins: BTreeMap<Name, Vec<(Key, Arc<DesiredRevision>)>>,
    revisions: i64,
    mistakes: Vec<String>,
    /// Pinned references by image. A tag is resolved once, as the operator does for each spec.
    resolved: HashMap<String, String>,
}

impl Sources {
    pub(crate) fn new(paths: Vec<PathBuf>, namespace: String, registry: Client) -> Self {
        Self {
            paths,
            namespace,
            registry,
            plugins: BTreeMap::new(),
            revisions: 0,
            mistakes: Vec::new(),
            resolved: HashMap::new(),
        }
    }

    /// The errors of the last read.
    pub(crate) fn mistakes(&self) -> &[String] {
        &self.mistakes
    }

    /// Rereads every file. A plugin whose file is invalid keeps its revisions; a plugin in no file is removed, unless
    /// any file is invalid. A new revision joins the one before it, which serves until the new one is ready.
    pub(crate) async fn read(&mut self) -> Desired {
        self.mistakes.clear();
        let mut reading = Reading::default();
        for path in self.paths.clone() {
            self.read_path(&path, &mut reading);
        }
        let Reading { plugins, objects } = reading;
        let mut found = BTreeMap::new();
        for (name, template, location) in plugins {
            if found.contains_key(&name) {
                self.mistakes.push(format!("plugin {}/{} is defined twice; rename one", name.0, name.1));
                continue;
            }
            match self.resolve(&name, template, location, &objects).await {
                Ok(plugin) => {
                    found.insert(name, plugin);
                }
                Err(mistake) => self.mistakes.push(format!("plugin {}/{}: {mistake}", name.0, name.1)),
            }
        }
        if self.mistakes.is_empty() {
            self.plugins.retain(|name, _| found.contains_key(name));
        }
        for (name, found) in found {
            self.update(name, found);
        }
        self.plugins.values().flatten().cloned().collect()
    }

    fn update(&mut self, name: Name, (template, source, contents): Resolved) {
        let revisions = self.plugins.entry(name.clone()).or_default();
        // Hashes the digest of a module file, so that an edit of the module is a new revision too.
        let content = match &source {
            Source::Module { digest, .. } => digest.to_string(),
            Source::Image(image) => image.clone(),
        };
        let identity = serde_json::to_vec(&(&template, content, &contents)).unwrap_or_default();
        let revision = format!("{}-{}", name.1, &ModuleDigest::of(&identity).hex()[..10]);
        if revisions.last().is_some_and(|(key, _)| key.revision == revision) {
            return;
        }
        self.revisions += 1;
        let key = Key { namespace: name.0, plugin: name.1, revision: revision.clone() };
        revisions.retain(|(old, _)| *old != key);
        let desired = DesiredRevision { revision, number: self.revisions, source, template, contents };
        revisions.push((key, Arc::new(desired)));
        // Keeps the previous revision, which serves until the new one is ready, and on if that one fails.
        let obsolete = revisions.len().saturating_sub(2);
        revisions.drain(..obsolete);
    }

    fn read_path(&mut self, path: &Path, reading: &mut Reading) {
        if let Some("wasm" | "wat") = path.extension().and_then(|extension| extension.to_str()) {
            match module_plugin(path) {
                Ok((name, template)) => {
                    let location = Location::File(path.to_owned());
                    reading.plugins.push(((self.namespace.clone(), name), template, location));
                }
                Err(mistake) => self.mistakes.push(mistake),
            }
            return;
        }
        let files = match manifest::files(&[path.to_owned()]) {
            Ok(files) => files,
            Err(failure) => return self.mistakes.push(failure.to_string()),
        };
        for file in files {
            match manifest::read(&file) {
                Ok(documents) => {
                    for document in documents {
                        match document {
                            Ok(Document::Plugin(plugin)) => {
                                reading.plugins.push(plugin_of(&file, *plugin, &self.namespace));
                            }
                            Ok(Document::Data(DataObject { namespace, object, data })) => {
                                let namespace = namespace.unwrap_or_else(|| self.namespace.clone());
                                reading.objects.entry(namespace).or_default().insert(object, data);
                            }
                            Ok(Document::Other { .. }) => {}
                            Err(mistake) => self.mistakes.push(format!("{}: {mistake}", file.display())),
                        }
                    }
                }
                Err(failure) => self.mistakes.push(failure.to_string()),
            }
        }
    }

    /// Reads or resolves a plugin's module, and looks up the ConfigMaps and Secrets that it names.
    async fn resolve(
        &mut self,
        (namespace, _): &Name,
        template: PluginTemplate,
        location: Location,
        objects: &BTreeMap<String, BTreeMap<LocalObject, Data>>,
    ) -> Result<Resolved, String> {
        let source = match location {
            Location::File(path) => module_source(&path)?,
            Location::Registry(image) => Source::Image(self.resolve_image(&image).await?),
        };
        let Some(policy) = &template.security_policy else { return Ok((template, source, None)) };
        let none = BTreeMap::new();
        let contents = policy.contents(objects.get(namespace).unwrap_or(&none));
        let contents = contents.map_err(|missing| {
            format!("{missing}; `samovar run` looks for it in these manifests, in namespace {namespace}")
        })?;
        Ok((template, source, Some(Arc::new(contents))))
    }

    async fn resolve_image(&mut self, image: &str) -> Result<String, String> {
        if let Some(pinned) = self.resolved.get(image) {
            return Ok(pinned.clone());
        }
        let reference: Reference =
            image.parse().map_err(|error: samovar_registry::Error| error.to_string())?;
        let pinned = self.registry.resolve(&reference).await.map_err(|error| error.to_string())?.to_string();
        self.resolved.insert(image.to_owned(), pinned.clone());
        Ok(pinned)
    }
}

/// The location of a plugin's module.
enum Location {
    File(PathBuf),
    Registry(String),
}

/// Extracts the name, template and module location of a manifest's plugin; `namespace` is the default.
fn plugin_of(file: &Path, plugin: WasmPlugin, namespace: &str) -> (Name, PluginTemplate, Location) {
    let namespace = plugin.metadata.namespace.unwrap_or_else(|| namespace.to_owned());
    let template = plugin.spec.template;
    let location = match template.image.strip_prefix(FILE) {
        Some(relative) => Location::File(file.parent().unwrap_or(Path::new(".")).join(relative)),
        None => Location::Registry(template.image.clone()),
    };
    ((namespace, plugin.metadata.name.unwrap_or_default()), template, location)
}

/// Makes a plugin of a module file, with the file's name and defaults for every field.
fn module_plugin(path: &Path) -> Result<(String, PluginTemplate), String> {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let name: String = stem.to_ascii_lowercase().replace(['_', '.'], "-");
    if !names::is_dns_label(&name) {
        return Err(format!("{}: `{name}` is not a valid plugin name; rename the file", path.display()));
    }
    let template =
        serde_json::from_value(serde_json::json!({ "image": format!("{FILE}{}", path.display()) }));
    Ok((name, template.map_err(|error| error.to_string())?))
}

fn module_source(path: &Path) -> Result<Source, String> {
    let bytes = module::from_file(path).map_err(|failure| failure.to_string())?;
    Ok(Source::Module { digest: ModuleDigest::of(&bytes), bytes: bytes.into() })
}
