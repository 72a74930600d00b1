//! Granted files and variables, through preview 1 and through WASI 0.2.

#![allow(clippy::unwrap_used, reason = "a failed setup may panic in a test")]

mod files_guest;
mod support;

use std::time::Duration;

use files_guest::{GUESTS, KIB, files, run, scratch, spec, words};
use samovar_runtime::{
    CallError, EnvGrant, EnvVar, FilesGrant, Format, Grants, Instances, InvalidMount, Mount, PluginSpec,
    Reuse,
};
use support::{Node, call_as, guest, json, load};

/// Checks the answer to each line of a script, in both forms of the guest.
async fn answers(mounts: &[Mount], script: &[(&str, &str)]) {
    for file in GUESTS {
        let plugin = load(guest(file), spec(mounts)).await.unwrap();
        let lines: Vec<&str> = script.iter().map(|(line, _)| *line).collect();
        let answers = run(&plugin, &lines).await.unwrap();
        for ((line, expected), answer) in script.iter().zip(&answers) {
            assert_eq!(answer, expected, "{file}: {line:?}");
        }
        assert_eq!(answers.len(), script.len(), "{file}");
    }
}

#[tokio::test]
async fn a_read_only_mount_is_read_and_never_changed() {
    let mounts = [words("/words", &[("en", "one\ntwo"), ("de", "eins"), ("empty", "")])];
    let script = [
        ("read\t/words/en", "ok one\ntwo"),
        ("read\t/words/empty", "ok"),
        ("read\t/words/./de", "ok eins"),
        ("read\t/words/../words/de", "PermissionDenied"),
        ("list\t/words", "ok de empty en"),
        ("list\t/words/", "ok de empty en"),
        ("stat\t/words", "ok dir 0 recent"),
        ("stat\t/words/de", "ok file 4 recent"),
        ("read\t/words/fr", "NotFound"),
        ("read\t/words/de/x", "NotADirectory"),
        ("read\t/words/de/", "NotADirectory"),
        ("list\t/words/de", "NotADirectory"),
        ("write\t/words/de\tzwei", "ReadOnlyFilesystem"),
        ("write\t/words/new\tx", "ReadOnlyFilesystem"),
        ("append\t/words/de\tx", "ReadOnlyFilesystem"),
        ("truncate\t/words/de\t0", "ReadOnlyFilesystem"),
        ("mkdir\t/words/dir", "ReadOnlyFilesystem"),
        ("remove\t/words/de", "ReadOnlyFilesystem"),
        ("rename\t/words/de\t/words/en", "ReadOnlyFilesystem"),
        ("read\t/words/de", "ok eins"),
    ];
    // A newline in an answer splits it in two.
    let script =
        script.map(|(line, answer)| (line, if line == "read\t/words/en" { "ok one" } else { answer }));
    for file in GUESTS {
        let plugin = load(guest(file), spec(&mounts)).await.unwrap();
        for (line, expected) in script {
            let answer = run(&plugin, &[line]).await.unwrap();
            assert_eq!(answer[0], expected, "{file}: {line:?}");
        }
    }
}

#[tokio::test]
async fn a_scratch_folder_behaves_like_a_file_system() {
    let script = [
        ("list\t/tmp", "ok"),
        ("mkdirs\t/tmp/a/b/c", "ok"),
        ("mkdirs\t/tmp/a/b", "ok"),
        ("mkdir\t/tmp/a", "AlreadyExists"),
        ("write\t/tmp/a/b/one\thello", "ok"),
        ("append\t/tmp/a/b/one\t world", "ok"),
        ("read\t/tmp/a/b/one", "ok hello world"),
        ("patch\t/tmp/a/b/one\t6\tWORLD", "ok hello WORLD"),
        ("create-new\t/tmp/a/b/one", "AlreadyExists"),
        ("create-new\t/tmp/a/b/two", "ok"),
        ("write\t/tmp/a/b/one\tshort", "ok"),
        ("stat\t/tmp/a/b/one", "ok file 5 recent"),
        ("truncate\t/tmp/a/b/one\t2", "ok"),
        ("read\t/tmp/a/b/one", "ok sh"),
        ("truncate\t/tmp/a/b/one\t100", "ok"),
        ("stat\t/tmp/a/b/one", "ok file 100 recent"),
        ("copy\t/tmp/a/b/one\t/tmp/a/b/three", "ok 100"),
        ("rename\t/tmp/a/b/three\t/tmp/a/three", "ok"),
        ("list\t/tmp/a/b", "ok c one two"),
        ("rename\t/tmp/a\t/tmp/a/b/inside", "InvalidInput"),
        ("rename\t/tmp/a/three\t/tmp/a/b", "IsADirectory"),
        ("rename\t/tmp/a/b\t/tmp/a/three", "NotADirectory"),
        ("rename\t/tmp/a/b/c\t/tmp/a/b", "errno 55"),
        ("rename\t/tmp/a/three\t/tmp/a/b/two", "ok"),
        ("stat\t/tmp/a/b/two", "ok file 100 recent"),
        ("rename\t/tmp/a/b\t/tmp/moved", "ok"),
        ("list\t/tmp/moved", "ok c one two"),
        ("rmdir\t/tmp/moved", "errno 55"),
        ("rmdir\t/tmp/moved/one", "NotADirectory"),
        ("remove\t/tmp/moved/c", "IsADirectory"),
        ("remove\t/tmp/moved/none", "NotFound"),
        ("remove-all\t/tmp/moved", "ok"),
        ("many\t/tmp/a\t500", "ok 500"),
        ("list\t/tmp/a", "ok"),
        ("rmdir\t/tmp/a", "ok"),
        ("unlinked\t/tmp/gone", "ok still here"),
        ("link\t/tmp/x\t/tmp/y", "PermissionDenied"),
        ("list\t/tmp", "ok"),
    ];
    answers(&[scratch("/tmp", 1024 * KIB)], &script).await;
}

#[tokio::test]
async fn symbolic_links_resolve_within_their_mount() {
    let script = [
        ("mkdirs\t/tmp/dir/deep", "ok"),
        ("write\t/tmp/dir/file\thello", "ok"),
        // The first mount is descriptor 3.
        ("raw\tsymlink\tdir/file\t3\tlink", "ok"),
        ("raw\tsymlink\t../file\t3\tdir/deep/up", "ok"),
        ("raw\tsymlink\tdir\t3\tto-dir", "ok"),
        ("raw\tsymlink\tnew\t3\tdangling", "ok"),
        ("raw\tsymlink\tloop\t3\tloop", "ok"),
        ("read\t/tmp/link", "ok hello"),
        ("read\t/tmp/dir/deep/up", "ok hello"),
        ("read\t/tmp/to-dir/deep/up", "ok hello"),
        ("list\t/tmp/to-dir/", "ok deep file"),
        ("stat\t/tmp/link", "ok link 8 recent"),
        ("raw\treadlink\t3\tlink", "ok dir/file"),
        ("raw\treadlink\t3\tdir/file", "errno 28"),
        ("read\t/tmp/dangling", "NotFound"),
        ("create-new\t/tmp/dangling", "AlreadyExists"),
        ("write\t/tmp/dangling\tmade", "ok"),
        ("read\t/tmp/new", "ok made"),
        ("raw\topen\t3\trf\tloop", "errno 32"),
        ("raw\topen\t3\tr\tlink", "errno 32"),
        ("remove\t/tmp/link", "ok"),
        ("read\t/tmp/dir/file", "ok hello"),
    ];
    answers(&[scratch("/tmp", 64 * KIB)], &script).await;
}

#[tokio::test]
async fn a_scratch_folder_holds_exactly_its_limit() {
    // A file counts as its content, its name and 1 KiB.
    let most = 64 * KIB - KIB - 1;
    let (fits, over) = (format!("fill\t/tmp/x\t{most}"), format!("truncate\t/tmp/x\t{}", most + 1));
    let huge = format!("truncate\t/tmp/x\t{}", u64::MAX / 2);
    let script = [
        (fits.as_str(), "ok"),
        (over.as_str(), "StorageFull"),
        (huge.as_str(), "StorageFull"),
        ("append\t/tmp/x\tx", "StorageFull"),
        ("write\t/tmp/y\t", "StorageFull"),
        ("mkdir\t/tmp/y", "StorageFull"),
        ("raw\tsymlink\tx\t3\ty", "errno 51"),
        ("rename\t/tmp/x\t/tmp/y", "ok"),
        ("rename\t/tmp/y\t/tmp/longer", "StorageFull"),
        ("rename\t/tmp/y\t/tmp/x", "ok"),
        ("truncate\t/tmp/x\t1000", "ok"),
        ("write\t/tmp/y\tthere is room again", "ok"),
        ("remove\t/tmp/x", "ok"),
        ("remove\t/tmp/y", "ok"),
        (fits.as_str(), "ok"),
    ];
    answers(&[scratch("/tmp", 64 * KIB)], &script).await;
}

#[tokio::test]
async fn files_are_copied_and_never_renamed_between_mounts() {
    let mounts =
        [words("/words", &[("en", "one")]), scratch("/tmp", 64 * KIB), scratch("/var/cache", 64 * KIB)];
    let script = [
        ("copy\t/words/en\t/tmp/en", "ok 3"),
        ("copy\t/tmp/en\t/var/cache/en", "ok 3"),
        ("rename\t/tmp/en\t/var/cache/other", "CrossesDevices"),
        ("list\t/var/cache", "ok en"),
        ("raw\tprestat\t3", "ok /words"),
        ("raw\tprestat\t4", "ok /tmp"),
        ("raw\tprestat\t5", "ok /var/cache"),
        ("raw\tprestat\t6", "errno 8"),
        ("read\t/etc/passwd", "NotFound"),
    ];
    for file in GUESTS {
        let plugin = load(guest(file), spec(&mounts)).await.unwrap();
        for ((line, expected), answer) in
            script.iter().zip(run(&plugin, &script.map(|(line, _)| line)).await.unwrap())
        {
            // libc finds no mount for the path, and has its own error for that.
            let fits = answer == *expected || line.starts_with("read\t/etc") && !answer.starts_with("ok");
            assert!(fits, "{file}: {line:?}: {answer}");
        }
    }
}

#[tokio::test]
async fn open_files_are_bounded() {
    for file in GUESTS {
        let plugin = load(guest(file), spec(&[words("/words", &[("en", "one")])])).await.unwrap();
        let answers = run(&plugin, &["open-many\t/words/en", "read\t/words/en"]).await.unwrap();
        let open: u32 = answers[0].strip_prefix("ok ").unwrap().parse().unwrap();
        assert!((100..=1024).contains(&open), "{file}: {open}");
        assert_eq!(answers[1], "ok one", "{file}");
    }
}

#[tokio::test]
async fn written_bytes_are_reserved_from_the_memory_budget_and_released() {
    for file in GUESTS {
        let node = Node::with_instances(20);
        let mut spec = spec(&[scratch("/tmp", 64 << 20)]);
        spec.instances = Instances { warm: 0, reuse: None };
        spec.limits.timeout = Duration::from_millis(500);
        let plugin = node.load(guest(file), spec).await.unwrap();
        let before = node.used();
        // It never ends, so that its reservation can be observed.
        let body = "raw\topen\t3\twc\tx\ntruncate\t/tmp/x\t33554432\nspin";
        let mut most = 0;
        let mut calling = Box::pin(call_as(&plugin, "run", body, Format::Text));
        let answer = std::future::poll_fn(|context| {
            let polled = calling.as_mut().poll(context);
            most = most.max(node.used());
            polled
        })
        .await;
        drop(calling);
        assert!(matches!(answer, Err(CallError::Timeout { .. })), "{file}: {answer:?}");
        assert!(most >= before + (32 << 20), "{file}: {most}");
        assert_eq!(node.used(), before, "{file}");
    }
}

#[tokio::test]
async fn scratch_is_empty_for_each_call_even_in_a_reused_instance() {
    // It creates a file in its `_initialize`, and answers whether that, or the last call's, exists: errno 44 means no.
    let module = r#"(module
        (import "wasi_snapshot_preview1" "path_open"
            (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (data (i32.const 0) "\10\00\00\00\04\00\00\00")
        (data (i32.const 16) "file")
        (func $make (result i32)
            (call $open (i32.const 3) (i32.const 0) (i32.const 16) (i32.const 4) (i32.const 1)
                (i64.const 66) (i64.const 66) (i32.const 0) (i32.const 32)))
        (func (export "_initialize") (drop (call $make)))
        (func (export "look") (result i32)
            (call $open (i32.const 3) (i32.const 0) (i32.const 16) (i32.const 4) (i32.const 0)
                (i64.const 2) (i64.const 2) (i32.const 0) (i32.const 32)))
        (func (export "make") (result i32) (call $make))
        (func (export "stale") (result i32)
            (call $write (i32.load (i32.const 32)) (i32.const 0) (i32.const 1) (i32.const 40))))"#;
    let mut spec = spec(&[scratch("/tmp", 64 * KIB)]);
    spec.instances =
        Instances { warm: 0, reuse: Some(Reuse { max_calls: 100, idle: Duration::from_mins(1) }) };
    let plugin = load(module, spec).await.unwrap();
    let call = async |name: &str| json(&plugin, name, "[]").await;
    assert_eq!(call("look").await, "44", "the file of its start function is gone");
    assert_eq!(call("make").await, "0");
    // The guest still has the number of the descriptor; the file is gone.
    assert_eq!(call("stale").await, "8");
    assert_eq!(call("look").await, "44");
    assert_eq!(plugin.ready_instances(), 1, "the instance was not reused");
}

#[tokio::test]
async fn a_guest_without_mounts_has_no_files() {
    for file in GUESTS {
        let plugin = load(guest(file), spec(&[])).await.unwrap();
        let script = ["read\t/words/en", "raw\tprestat\t3", "raw\topen\t3\tr\tx", "raw\treaddir\t3"];
        for answer in run(&plugin, &script).await.unwrap() {
            assert!(!answer.starts_with("ok"), "{file}: {answer}");
        }
    }
}

#[tokio::test]
async fn programs_have_the_granted_variables_and_no_others() {
    let variables = ["LOCALE=de", "EMPTY=", "EQUALS=a=b"].map(|pair| {
        let (name, value) = pair.split_once('=').unwrap();
        EnvVar { name: name.to_owned(), value: value.to_owned() }
    });
    let env = EnvGrant::new(variables.to_vec()).unwrap();
    for file in GUESTS {
        let grants = Grants { env: env.clone(), ..Grants::default() };
        let config = serde_json::from_str(r#"{"a":1}"#).unwrap();
        let plugin =
            load(guest(file), PluginSpec { grants, config: Some(config), ..spec(&[]) }).await.unwrap();
        let script = ["env\tLOCALE", "env\tEMPTY", "env\tEQUALS", "env\tHOME", "env\tPATH"];
        let answers = run(&plugin, &script).await.unwrap();
        assert_eq!(answers, ["ok de", "ok", "ok a=b", "NotFound", "NotFound"], "{file}");
    }
}

#[test]
fn invalid_mounts_are_refused() {
    for path in ["", "/", "words", "./words", "/words/", "//words", "/a//b", "/a/../b", "/.", "/a/.", "/a\0b"]
    {
        assert_eq!(FilesGrant::new(&[scratch(path, 1)]).err(), Some(InvalidMount::Path(path.to_owned())));
    }
    for (one, other) in [("/a", "/a"), ("/a", "/a/b"), ("/a/b", "/a")] {
        let refused = FilesGrant::new(&[scratch(one, 1), scratch(other, 1)]);
        assert!(matches!(refused, Err(InvalidMount::Nested { .. })), "{one} {other}");
    }
    assert!(FilesGrant::new(&[scratch("/a", 1), scratch("/ab", 1), scratch("/b/a", 1)]).is_ok());
    let long = "x".repeat(256);
    for name in ["", ".", "..", "a/b", "a\0", &long] {
        assert!(matches!(FilesGrant::new(&[words("/a", &[(name, "")])]), Err(InvalidMount::FileName { .. })));
    }
    assert!(matches!(FilesGrant::new(&[scratch("/a", 2 << 30)]), Err(InvalidMount::Scratch(_))));
    let many: Vec<_> = (0..65).map(|at| scratch(&format!("/{at}"), 1)).collect();
    assert_eq!(FilesGrant::new(&many).err(), Some(InvalidMount::TooMany));
    let shown = format!("{:?}", files(&[words("/a", &[("key", "hunter2")])]));
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[tokio::test]
async fn a_call_without_node_memory_ends_and_sees_no_full_disk() {
    for file in GUESTS {
        let node = Node::with_memory(48 << 20);
        let mut spec = spec(&[scratch("/tmp", 512 << 20)]);
        spec.instances.warm = 0;
        let plugin = node.load(guest(file), spec).await.unwrap();
        let line = "raw\topen\t3\twc\tx\ntruncate\t/tmp/x\t268435456";
        let answer = run(&plugin, &[line]).await;
        assert!(matches!(answer, Err(CallError::NodeMemory)), "{file}: {answer:?}");
        assert_eq!(run(&plugin, &["write\t/tmp/x\tsmall"]).await.unwrap(), ["ok"], "{file}");
    }
}
