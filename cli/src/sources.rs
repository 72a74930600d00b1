//! What `samovar run` is asked to run: manifests and modules, as the revisions that an agent takes.

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
    manifest::{self, Document, Holder},
    module,
};

/// A plugin's namespace and name.
type Name = (String, String);
/// What a plugin runs, and with what.
type Found = (PluginTemplate, Source, Option<Arc<Contents>>);

/// What the files say, before any of it is looked up.
#[derive(Default)]
struct Reading {
    plugins: Vec<(Name, PluginTemplate, Place)>,
    /// The ConfigMaps and Secrets of each namespace.
    objects: BTreeMap<String, BTreeMap<LocalObject, Data>>,
}

/// What an image's name begins with where it is a file beside the manifest.
const FILE: &str = "file:";

/// The files that plugins come from, and what they last said.
pub(crate) struct Sources {
    paths: Vec<PathBuf>,
    namespace: String,
    registry: Client,
    /// The newest revisions that were read whole, by namespace and plugin.
    plugins: BTreeMap<Name, Vec<(Key, Arc<DesiredRevision>)>>,
    revisions: i64,
    mistakes: Vec<String>,
    /// Tags that were resolved: like the operator, once for each spec.
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

    /// What was wrong in the last reading.
    pub(crate) fn mistakes(&self) -> &[String] {
        &self.mistakes
    }

    /// Reads every file anew. A plugin whose file is broken stays as it was; one that is in no file goes. A new
    /// revision stands beside the one that serves, which goes when the next comes.
    pub(crate) async fn read(&mut self) -> Desired {
        self.mistakes.clear();
        let mut reading = Reading::default();
        for path in self.paths.clone() {
            self.read_path(&path, &mut reading);
        }
        let Reading { plugins, objects } = reading;
        let mut found = BTreeMap::new();
        for (name, template, place) in plugins {
            if found.contains_key(&name) {
                self.mistakes.push(format!("plugin {}/{} comes twice; rename one", name.0, name.1));
                continue;
            }
            match self.find(&name, template, place, &objects).await {
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

    fn update(&mut self, name: Name, (template, source, contents): Found) {
        let revisions = self.plugins.entry(name.clone()).or_default();
        // A module file is known by its content, so that an edit of it is another revision too.
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
        // The one before serves until this is ready, and again where this fails.
        let obsolete = revisions.len().saturating_sub(2);
        revisions.drain(..obsolete);
    }

    fn read_path(&mut self, path: &Path, reading: &mut Reading) {
        if let Some("wasm" | "wat") = path.extension().and_then(|extension| extension.to_str()) {
            match module_plugin(path) {
                Ok((name, template)) => {
                    let place = Place::File(path.to_owned());
                    reading.plugins.push(((self.namespace.clone(), name), template, place));
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
                            Ok(Document::Holder(Holder { namespace, object, data })) => {
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

    async fn find(
        &mut self,
        (namespace, _): &Name,
        template: PluginTemplate,
        place: Place,
        objects: &BTreeMap<String, BTreeMap<LocalObject, Data>>,
    ) -> Result<Found, String> {
        let source = match place {
            Place::File(path) => module_source(&path)?,
            Place::Registry(image) => Source::Image(self.resolve(&image).await?),
        };
        let Some(policy) = &template.security_policy else { return Ok((template, source, None)) };
        let none = BTreeMap::new();
        let contents = policy.contents(objects.get(namespace).unwrap_or(&none));
        let contents = contents.map_err(|missing| {
            format!("{missing}; it is looked for in these manifests, in namespace {namespace}")
        })?;
        Ok((template, source, Some(Arc::new(contents))))
    }

    async fn resolve(&mut self, image: &str) -> Result<String, String> {
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

/// Where a plugin's module is.
enum Place {
    File(PathBuf),
    Registry(String),
}

/// What a manifest's plugin is, in this namespace where it names none.
fn plugin_of(file: &Path, plugin: WasmPlugin, namespace: &str) -> (Name, PluginTemplate, Place) {
    let namespace = plugin.metadata.namespace.unwrap_or_else(|| namespace.to_owned());
    let template = plugin.spec.template;
    let place = match template.image.strip_prefix(FILE) {
        Some(relative) => Place::File(file.parent().unwrap_or(Path::new(".")).join(relative)),
        None => Place::Registry(template.image.clone()),
    };
    ((namespace, plugin.metadata.name.unwrap_or_default()), template, place)
}

/// A module file as a plugin of its name, with every default.
fn module_plugin(path: &Path) -> Result<(String, PluginTemplate), String> {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let name: String = stem.to_ascii_lowercase().replace(['_', '.'], "-");
    if !names::is_dns_label(&name) {
        return Err(format!("{}: `{name}` is no plugin's name; rename the file", path.display()));
    }
    let template =
        serde_json::from_value(serde_json::json!({ "image": format!("{FILE}{}", path.display()) }));
    Ok((name, template.map_err(|error| error.to_string())?))
}

fn module_source(path: &Path) -> Result<Source, String> {
    let bytes = module::from_file(path).map_err(|failure| failure.to_string())?;
    Ok(Source::Module { digest: ModuleDigest::of(&bytes), bytes: bytes.into() })
}
