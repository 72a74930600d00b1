//! The cost of compiling in a child process beyond compiling in this one, in one run.

#![allow(missing_docs, clippy::unwrap_used, reason = "a failed setup may panic in a benchmark")]

use std::{env, fmt::Write as _, process::ExitCode, time::Duration};

use bytes::Bytes;
use criterion::Criterion;
use samovar_runtime::{
    ArtifactCache, CompileLimits, Compiler, Engine, EngineOptions, ModuleDigest, compile_child,
};

/// The argument that makes this program the compile child.
const CHILD: &str = "compile";

fn main() -> ExitCode {
    if env::args().nth(1).as_deref() == Some(CHILD) {
        return compile_child();
    }
    let mut criterion =
        Criterion::default().sample_size(10).measurement_time(Duration::from_secs(10)).configure_from_args();
    compiles(&mut criterion);
    criterion.final_summary();
    ExitCode::SUCCESS
}

fn compiles(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let engine = Engine::new(&EngineOptions::default()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let child = Compiler::Child {
        program: env::current_exe().unwrap(),
        args: vec![CHILD.into()],
        limits: CompileLimits::default(),
    };
    for (size, functions) in [("small", 1), ("2-mb", 15_000)] {
        let wasm = module(functions);
        println!("{size}: {} bytes", wasm.len());
        let digest = ModuleDigest::of(&wasm);
        for (place, compiler) in [("in-process", Compiler::InProcess), ("child", child.clone())] {
            let cache = ArtifactCache::open(directory.path().to_owned(), engine.clone(), compiler).unwrap();
            criterion.bench_function(&format!("compile/{size}/{place}"), |bencher| {
                bencher
                    .to_async(&runtime)
                    .iter(|| async { cache.compile_only(&digest, wasm.clone()).await.unwrap().bytes() });
            });
        }
    }
}

/// A module with a number of functions, each with a loop and some 130 bytes long.
fn module(functions: u32) -> Bytes {
    let mut text = "(module (memory 1)".to_owned();
    for number in 0..functions {
        write!(text, r#"(func (export "function-{number}") (param i32) (result i32) (local i32) (loop"#)
            .unwrap();
        for step in 0..8 {
            write!(
                text,
                "(local.set 1 (i32.add (local.get 1) (i32.load (i32.and (local.get 0) (i32.const {})))))",
                number + step
            )
            .unwrap();
        }
        text.push_str("(br_if 0 (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))) (local.get 1))");
    }
    text.push(')');
    wat::parse_str(&text).unwrap().into()
}
