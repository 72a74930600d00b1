//! Loads one revision: pull, compile or cache hit, link, warm-up.

pub(crate) mod contents;
pub(crate) mod failure;
pub(crate) mod grants;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Instant,
};

use bytes::Bytes;
use samovar_crds::{
    Abi, FunctionStatus, ImagePullPolicy, LoadStats, PluginTemplate, PluginType, Reason, State,
};
use samovar_registry::{Client, Reference};
use samovar_runtime::{
    Artifact, CompileError, Engine, FunctionRequest, Grants, Instances, Limits, LoadError, Metering,
    ModuleDigest, Plugin, PluginSpec, Reuse,
};
use tokio::{
    runtime::Handle,
    sync::{OwnedMutexGuard, Semaphore},
};
use tokio_util::task::AbortOnDropHandle;

use self::{
    contents::Operator,
    failure::{Failure, Retry},
};
use crate::{
    desired::{DesiredRevision, Key, Source},
    disk::{Cache, CacheFull, KeepError, Pin},
    server::metrics::Metrics,
};

/// Loads revisions, with bounded concurrency.
pub(crate) struct Loader {
    pub(crate) engine: Engine,
    pub(crate) cache: Arc<Cache>,
    pub(crate) registry: Client,
    /// Permits for modules in memory, from the pull to the end of the compile.
    pub(crate) modules_held: Semaphore,
    /// Permits for compiles.
    pub(crate) compiles: Semaphore,
    pub(crate) flights: SingleFlight,
    /// The source of contents; `None` if the desired state has them.
    pub(crate) operator: Option<Operator>,
    /// The runtime of guests, and so of their start functions.
    pub(crate) guests: Handle,
    pub(crate) metrics: Metrics,
}

/// The most modules in memory at once: enough that one slow registry does not stop the others.
pub(crate) const MODULES_HELD: usize = 8;

/// A revision that can be called.
pub(crate) struct Loaded {
    pub(crate) plugin: Plugin,
    pub(crate) module: Pin,
    pub(crate) functions: Vec<FunctionStatus>,
    pub(crate) load_stats: LoadStats,
}

impl Loader {
    /// Loads a revision, and calls `progress` at each state on the way.
    pub(crate) async fn load(
        &self,
        key: &Key,
        revision: &DesiredRevision,
        progress: &(dyn Fn(State) + Sync),
    ) -> Result<Loaded, Failure> {
        let spec = plugin_spec(key, &revision.template);
        let (metering, stats) = (spec.metering(), LoadStats::default());
        Load { loader: self, key, revision, metering, progress, stats }.run(spec).await
    }
}

/// One load of one revision; its methods are the steps.
struct Load<'a> {
    loader: &'a Loader,
    key: &'a Key,
    revision: &'a DesiredRevision,
    metering: Metering,
    progress: &'a (dyn Fn(State) + Sync),
    stats: LoadStats,
}

impl Load<'_> {
    async fn run(mut self, spec: PluginSpec) -> Result<Loaded, Failure> {
        let (module, artifact) = match &self.revision.source {
            Source::Image(image) => self.image_artifact(image).await?,
            Source::Module { digest, bytes } => self.module_artifact(digest, bytes).await?,
        };
        let grants = self.grants().await?;
        (self.progress)(State::Warming);
        let started = Instant::now();
        let plugin = self.plugin(PluginSpec { grants, ..spec }, &artifact).await?;
        let load_stats = LoadStats {
            load_milliseconds: millis(started),
            code_bytes: i64::try_from(artifact.code_bytes()).unwrap_or(i64::MAX),
            warm_instances: plugin.ready_instances(),
            ..self.stats
        };
        let functions = plugin.functions().iter().map(|function| function_status(function)).collect();
        Ok(Loaded { plugin, module, functions, load_stats })
    }

    async fn image_artifact(&mut self, image: &str) -> Result<(Pin, Artifact), Failure> {
        let (cache, template) = (&self.loader.cache, &self.revision.template);
        let path = template.module_path.as_deref();
        (self.progress)(State::Pulling);
        // Many plugins of one image pull and compile it once: the others wait here, and then find it in the cache.
        let _flight = self.loader.flights.enter(&format!("{image} {}", path.unwrap_or_default())).await;
        if let Some(digest) = cache.modules.of_image(image, path) {
            let module = cache.pin(&digest);
            if let Some(artifact) = self.cached(&digest).await {
                return Ok((module, artifact));
            }
            let _held = self.loader.modules_held.acquire().await;
            if let Some(wasm) = cache.modules.read(&digest) {
                return Ok((module, self.compiled(&digest, wasm).await?));
            }
        }
        if template.image_pull_policy == Some(ImagePullPolicy::Never) {
            return Err(Failure::new(
                Reason::ImageNotFound,
                Retry::Slowly,
                format!("{image} is not cached on this node, and imagePullPolicy is Never"),
            ));
        }
        let _held = self.loader.modules_held.acquire().await;
        let (digest, wasm) = self.pull(image, path).await?;
        let module = cache.pin(&digest);
        cache.keep_module(&digest, &wasm, Some((image, path))).await.map_err(cache_full)?;
        Ok((module, self.compiled(&digest, wasm).await?))
    }

    async fn module_artifact(
        &mut self,
        digest: &ModuleDigest,
        wasm: &Bytes,
    ) -> Result<(Pin, Artifact), Failure> {
        let module = self.loader.cache.pin(digest);
        // Cached as a pulled module is, so that one rule bounds the disk.
        self.loader.cache.keep_module(digest, wasm, None).await.map_err(cache_full)?;
        Ok((module, self.compiled(digest, wasm.clone()).await?))
    }

    async fn pull(&mut self, image: &str, path: Option<&str>) -> Result<(ModuleDigest, Bytes), Failure> {
        let started = Instant::now();
        let reference: Reference =
            image.parse().map_err(|error| Failure::new(Reason::ImageNotFound, Retry::Never, error))?;
        let pulled = self.loader.registry.pull(&reference, path, |_, _| {}).await;
        let module = pulled.map_err(|error| registry_failure(&error))?;
        self.stats.pull_milliseconds = millis(started);
        let digest = module.digest.parse().expect("a pulled module's digest is computed as SHA-256");
        Ok((digest, module.bytes))
    }

    async fn cached(&mut self, digest: &ModuleDigest) -> Option<Artifact> {
        let artifact = self.loader.cache.artifacts.metered(self.metering).get(digest).await?;
        self.stats.cache_hit = true;
        self.loader.metrics.cache_hits.inc();
        Some(artifact)
    }

    async fn compiled(&mut self, digest: &ModuleDigest, wasm: Bytes) -> Result<Artifact, Failure> {
        (self.progress)(State::Compiling);
        // Several images may contain the same module.
        let _flight = self.loader.flights.enter(&digest.to_string()).await;
        if let Some(artifact) = self.cached(digest).await {
            return Ok(artifact);
        }
        let Loader { cache, compiles, metrics, .. } = self.loader;
        let _slot = compiles.acquire().await;
        let started = Instant::now();
        let artifacts = cache.artifacts.metered(self.metering);
        let compiled = artifacts.compile_only(digest, wasm).await.map_err(compile_failure)?;
        let artifact = cache.keep_artifact(compiled).await.map_err(|error| match error {
            KeepError::Full(error) => cache_full(error),
            KeepError::Compile(error) => compile_failure(error),
        })?;
        self.stats.compile_milliseconds = millis(started);
        metrics.compile_seconds.observe(started.elapsed().as_secs_f64());
        Ok(artifact)
    }

    /// The grants of the plugin's policy: the last step before the link, so that contents are as new as possible.
    async fn grants(&self) -> Result<Grants, Failure> {
        let Some(policy) = &self.revision.template.security_policy else { return Ok(Grants::default()) };
        let contents = match (&self.revision.contents, &self.loader.operator) {
            (Some(contents), _) => Arc::clone(contents),
            (None, Some(operator)) if !policy.objects().is_empty() => {
                Arc::new(operator.fetch(self.key).await?)
            }
            (None, _) => Arc::default(),
        };
        grants::grants(policy, &contents)
    }

    async fn plugin(&self, spec: PluginSpec, artifact: &Artifact) -> Result<Plugin, Failure> {
        let (engine, artifact) = (self.loader.engine.clone(), artifact.clone());
        // Start functions are guest code: they run on the runtime of guests, never on the one that controls the agent.
        let load = AbortOnDropHandle::new(
            self.loader.guests.spawn(async move { Plugin::load(&engine, &artifact, spec).await }),
        );
        let loaded = load.await.map_err(|error| Failure::new(Reason::InitFailed, Retry::Slowly, error))?;
        loaded.map_err(|error| match error {
            LoadError::ExportNotFound(_) => Failure::new(Reason::ExportNotFound, Retry::Never, error),
            LoadError::ImportNotGranted(_) => Failure::new(Reason::ImportNotGranted, Retry::Never, error),
            LoadError::Init(_) => Failure::new(Reason::InitFailed, Retry::Never, error),
            LoadError::AgentFull | LoadError::NodeMemory | LoadError::Engine(_) => {
                Failure::new(Reason::AgentOverloaded, Retry::Soon(None), error)
            }
        })
    }
}

fn compile_failure(error: CompileError) -> Failure {
    let (reason, retry) = match error {
        CompileError::Invalid(_) => (Reason::ModuleInvalid, Retry::Never),
        CompileError::Failed(_) | CompileError::TimeLimit(_) | CompileError::Crashed { .. } => {
            (Reason::CompileFailed, Retry::Never)
        }
        CompileError::Run(_) => (Reason::CompileFailed, Retry::Soon(None)),
        CompileError::NodeMemory => (Reason::AgentOverloaded, Retry::Soon(None)),
    };
    Failure::new(reason, retry, error)
}

fn cache_full(error: CacheFull) -> Failure {
    // Slowly: each retry pulls or compiles the module again.
    Failure::new(Reason::CacheFull, Retry::Slowly, error)
}

fn registry_failure(error: &samovar_registry::Error) -> Failure {
    use samovar_registry::Error;
    let (reason, retry) = match error {
        Error::NotFound { .. } => (Reason::ImageNotFound, Retry::Slowly),
        Error::Unauthorized { .. } => (Reason::RegistryUnauthorized, Retry::Slowly),
        Error::Unavailable { retry_after, .. } => (Reason::RegistryUnavailable, Retry::Soon(*retry_after)),
        Error::DigestMismatch { .. } => (Reason::DigestMismatch, Retry::Slowly),
        Error::Unsupported { .. } => (Reason::ArtifactUnsupported, Retry::Never),
        _ => (Reason::ImageNotFound, Retry::Never),
    };
    Failure::new(reason, retry, error)
}

/// The spec without the grants, for which contents may have to be fetched.
fn plugin_spec(key: &Key, template: &PluginTemplate) -> PluginSpec {
    let limits = &template.limits;
    let functions = template.functions.iter().map(|function| {
        let over = function.limits.clone().unwrap_or_default();
        FunctionRequest {
            name: function.name.clone(),
            export: function.export.clone(),
            abi: match function.abi {
                // The API server admits no function of `Http`; elsewhere the runtime refuses it with a reason.
                Abi::Http => Some(samovar_runtime::Abi::Http),
                Abi::Auto => None,
                Abi::Component => Some(samovar_runtime::Abi::Component),
                Abi::Command => Some(samovar_runtime::Abi::Command),
                Abi::Scalar => Some(samovar_runtime::Abi::Scalar),
                Abi::Buffer => Some(samovar_runtime::Abi::Buffer),
                Abi::WasmEngine => Some(samovar_runtime::Abi::WasmEngine),
            },
            memory: over.memory.map(|bytes| bytes.bytes()),
            timeout: over.timeout.map(Into::into),
            fuel: over.fuel,
            concurrency: over.concurrency,
            queue: over.queue,
            request_bytes: over.request_bytes.map(|bytes| bytes.bytes()),
            response_bytes: over.response_bytes.map(|bytes| bytes.bytes()),
        }
    });
    let reuse = template.instances.reuse.as_ref();
    PluginSpec {
        name: format!("{}/{}", key.namespace, key.plugin),
        functions: functions.collect(),
        limits: Limits {
            memory: limits.memory.bytes(),
            timeout: limits.timeout.into(),
            fuel: limits.fuel,
            concurrency: limits.concurrency,
            queue: limits.queue,
            request_bytes: limits.request_bytes.bytes(),
            response_bytes: limits.response_bytes.bytes(),
            log_lines: limits.log_lines,
        },
        instances: Instances {
            warm: template.instances.warm,
            reuse: reuse.map(|reuse| Reuse { max_calls: reuse.max_calls, idle: reuse.idle.into() }),
        },
        config: template.config.clone(),
        grants: Grants::default(),
        http: template.type_ == PluginType::Http,
    }
}

fn function_status(function: &samovar_runtime::Function) -> FunctionStatus {
    FunctionStatus {
        name: function.name().to_owned(),
        abi: function.abi().map(|abi| match abi {
            samovar_runtime::Abi::Component => Abi::Component,
            samovar_runtime::Abi::Http => Abi::Http,
            samovar_runtime::Abi::Command => Abi::Command,
            samovar_runtime::Abi::Scalar => Abi::Scalar,
            samovar_runtime::Abi::Buffer => Abi::Buffer,
            samovar_runtime::Abi::WasmEngine => Abi::WasmEngine,
        }),
        signature: function.signature().to_owned(),
        not_callable: function.not_callable().map(str::to_owned),
    }
}

fn millis(since: Instant) -> u32 {
    u32::try_from(since.elapsed().as_millis()).unwrap_or(u32::MAX)
}

/// Concurrent loads of one name run one after another, so that all but the first find its result.
#[derive(Default)]
pub(crate) struct SingleFlight(Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>);

impl SingleFlight {
    pub(crate) async fn enter(&self, name: &str) -> OwnedMutexGuard<()> {
        let flight = {
            let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            flights.retain(|_, flight| flight.strong_count() > 0);
            let flight = flights.get(name).and_then(Weak::upgrade).unwrap_or_default();
            flights.insert(name.to_owned(), Arc::downgrade(&flight));
            flight
        };
        flight.lock_owned().await
    }
}
