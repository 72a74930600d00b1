//! Loading one revision: pull, compile or find in the cache, link, warm.

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

/// Loads revisions, so many at once.
pub(crate) struct Loader {
    pub(crate) engine: Engine,
    pub(crate) cache: Arc<Cache>,
    pub(crate) registry: Client,
    /// Modules that are held in memory at once, from the pull to the end of the compile.
    pub(crate) modules_held: Semaphore,
    /// Compiles at once.
    pub(crate) compiles: Semaphore,
    pub(crate) flights: SingleFlight,
    /// Who knows what ConfigMaps and Secrets hold; `None` where that is part of what is wanted.
    pub(crate) operator: Option<Operator>,
    /// Where guests run, their start functions too.
    pub(crate) guests: Handle,
    pub(crate) metrics: Metrics,
}

/// Modules that are held in memory at once: enough that one slow registry does not stop the others.
pub(crate) const MODULES_HELD: usize = 8;

/// A revision that can be called.
pub(crate) struct Loaded {
    pub(crate) plugin: Plugin,
    pub(crate) module: Pin,
    pub(crate) functions: Vec<FunctionStatus>,
    pub(crate) load_stats: LoadStats,
}

impl Loader {
    /// Loads a revision, telling `progress` how far it is.
    pub(crate) async fn load(
        &self,
        key: &Key,
        revision: &DesiredRevision,
        progress: impl Fn(State),
    ) -> Result<Loaded, Failure> {
        let mut load_stats = LoadStats::default();
        let spec = plugin_spec(key, &revision.template);
        let metering = spec.metering();
        let (module, artifact) = match &revision.source {
            Source::Image(image) => {
                self.image_artifact(image, &revision.template, metering, &progress, &mut load_stats).await?
            }
            Source::Module { digest, bytes } => {
                let module = self.cache.pin(digest);
                // Kept as a pulled one is, so that the cache has one way to stay small.
                self.cache.keep_module(digest, bytes, None).await.map_err(cache_full)?;
                progress(State::Compiling);
                (module, self.compiled(digest, metering, bytes.clone(), &mut load_stats).await?)
            }
        };
        let grants = self.grants(key, revision).await?;
        progress(State::Warming);
        let started = Instant::now();
        let plugin = self.plugin(PluginSpec { grants, ..spec }, &artifact).await?;
        load_stats.load_milliseconds = millis(started);
        load_stats.code_bytes = i64::try_from(artifact.code_bytes()).unwrap_or(i64::MAX);
        load_stats.warm_instances = plugin.ready_instances();
        let functions = plugin.functions().iter().map(|function| function_status(function)).collect();
        Ok(Loaded { plugin, module, functions, load_stats })
    }

    async fn image_artifact(
        &self,
        image: &str,
        template: &PluginTemplate,
        metering: Metering,
        progress: &impl Fn(State),
        load_stats: &mut LoadStats,
    ) -> Result<(Pin, Artifact), Failure> {
        let path = template.module_path.as_deref();
        progress(State::Pulling);
        // Many plugins of one image pull and compile it once: the others wait here, and then find it.
        let _flight = self.flights.enter(&format!("{image} {}", path.unwrap_or_default())).await;
        if let Some(digest) = self.cache.modules.of_image(image, path) {
            let module = self.cache.pin(&digest);
            if let Some(artifact) = self.cached(&digest, metering, load_stats).await {
                return Ok((module, artifact));
            }
            let _held = self.modules_held.acquire().await;
            if let Some(wasm) = self.cache.modules.read(&digest) {
                progress(State::Compiling);
                return Ok((module, self.compiled(&digest, metering, wasm, load_stats).await?));
            }
        }
        if template.image_pull_policy == Some(ImagePullPolicy::Never) {
            return Err(Failure::new(
                Reason::ImageNotFound,
                Retry::Slowly,
                format!("this node does not have {image}, and imagePullPolicy is Never: nothing is pulled"),
            ));
        }
        let _held = self.modules_held.acquire().await;
        let wasm = self.pull(image, path, load_stats).await?;
        let digest = ModuleDigest::of(&wasm);
        let module = self.cache.pin(&digest);
        self.cache.keep_module(&digest, &wasm, Some((image, path))).await.map_err(cache_full)?;
        progress(State::Compiling);
        Ok((module, self.compiled(&digest, metering, wasm, load_stats).await?))
    }

    async fn pull(
        &self,
        image: &str,
        path: Option<&str>,
        load_stats: &mut LoadStats,
    ) -> Result<Bytes, Failure> {
        let started = Instant::now();
        let reference: Reference =
            image.parse().map_err(|error| Failure::new(Reason::ImageNotFound, Retry::Never, error))?;
        let module = self
            .registry
            .pull(&reference, path, |_, _| {})
            .await
            .map_err(|error| registry_failure(&error))?;
        load_stats.pull_milliseconds = millis(started);
        Ok(module.bytes)
    }

    async fn cached(
        &self,
        digest: &ModuleDigest,
        metering: Metering,
        load_stats: &mut LoadStats,
    ) -> Option<Artifact> {
        let artifact = self.cache.artifacts.metered(metering).get(digest).await?;
        load_stats.cache_hit = true;
        self.metrics.cache_hits.inc();
        Some(artifact)
    }

    async fn compiled(
        &self,
        digest: &ModuleDigest,
        metering: Metering,
        wasm: Bytes,
        load_stats: &mut LoadStats,
    ) -> Result<Artifact, Failure> {
        // Several images may hold the same module.
        let _flight = self.flights.enter(&digest.to_string()).await;
        if let Some(artifact) = self.cached(digest, metering, load_stats).await {
            return Ok(artifact);
        }
        let _slot = self.compiles.acquire().await;
        let started = Instant::now();
        let artifacts = self.cache.artifacts.metered(metering);
        let compiled = artifacts.compile_only(digest, wasm).await.map_err(compile_failure)?;
        let artifact = self.cache.keep_artifact(compiled).await.map_err(|error| match error {
            KeepError::Full(error) => cache_full(error),
            KeepError::Compile(error) => compile_failure(error),
        })?;
        load_stats.compile_milliseconds = millis(started);
        self.metrics.compile_seconds.observe(started.elapsed().as_secs_f64());
        Ok(artifact)
    }

    /// What the plugin's policy grants. The last before it is linked: what it names is as new as it can be.
    async fn grants(&self, key: &Key, revision: &DesiredRevision) -> Result<Grants, Failure> {
        let Some(policy) = &revision.template.security_policy else { return Ok(Grants::default()) };
        let contents = match (&revision.contents, &self.operator) {
            (Some(contents), _) => Arc::clone(contents),
            (None, Some(operator)) if !policy.objects().is_empty() => Arc::new(operator.ask(key).await?),
            (None, _) => Arc::default(),
        };
        grants::grants(policy, &contents)
    }

    async fn plugin(&self, spec: PluginSpec, artifact: &Artifact) -> Result<Plugin, Failure> {
        let (engine, artifact) = (self.engine.clone(), artifact.clone());
        // Start functions are guests' code: they run where guests run, never where the agent is controlled.
        let load = AbortOnDropHandle::new(
            self.guests.spawn(async move { Plugin::load(&engine, &artifact, spec).await }),
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
    // Slowly: each time it would be pulled or compiled anew.
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

/// All but the grants, which may have to be asked for.
fn plugin_spec(key: &Key, template: &PluginTemplate) -> PluginSpec {
    let limits = &template.limits;
    let functions = template.functions.iter().map(|function| {
        let over = function.limits.clone().unwrap_or_default();
        FunctionRequest {
            name: function.name.clone(),
            export: function.export.clone(),
            abi: match function.abi {
                // The API server takes no function of `Http`; elsewhere the runtime says why it cannot be.
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

/// One at a time for each name: whoever comes second waits for the first.
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
