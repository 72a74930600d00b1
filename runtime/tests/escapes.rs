//! Attempts to escape a mount, or to change a read-only one: none succeeds.

#![allow(clippy::unwrap_used, reason = "a failed setup may panic in a test")]

mod files_guest;
mod support;

use files_guest::{GUESTS, KIB, run, scratch, spec, words};
use support::{guest, load};

/// The descriptors of the mounts, in the order of their grants.
const READ_ONLY: u32 = 3;
const SCRATCH: u32 = 4;

/// The content of a file on the host, and of one in another mount.
const CANARY: &str = "canary-of-the-host";
const NEIGHBOUR: &str = "canary-of-the-other-mount";

/// Paths that would lead out of the mount.
fn ways_out(canary: &str) -> Vec<String> {
    let absolute = canary.trim_start_matches('/');
    let mut ways: Vec<String> = [
        "/",
        "//",
        "/.",
        "/..",
        "/words",
        "/words/en",
        "/tmp",
        "/other/secret",
        "//etc/passwd",
        "///etc/passwd",
        "/etc/passwd",
        "/proc/self/environ",
        "/proc/self/root/etc/passwd",
        "/proc/self/cwd",
        "/proc/self/fd/3",
        "/proc/1/environ",
        "/dev/null",
        "/dev/shm/x",
        "/sys/kernel",
        "/var/lib/samovar",
        "/run/secrets",
        "/root/.ssh",
        "..",
        "../",
        "../.",
        "..//",
        "./..",
        "./../",
        "../..",
        "../../../../../../../..",
        "../other/secret",
        "..//other/secret",
        "./../other/secret",
        "../words/en",
        "../tmp/x",
        "../etc/passwd",
        "../../../../etc/passwd",
        "../proc/self/environ",
        "dir/../..",
        "dir/../../other/secret",
        "dir/./.././../other/secret",
        "dir//..//..//x",
        "dir/sub/../../../other/secret",
        "..\0",
        "../\0",
        "\0/etc/passwd",
        "\0",
        "en\0",
        "en\0/../../etc/passwd",
        "dir/\0",
        "dir/..\0/..",
    ]
    .map(|path| path.replace('\0', "\\0"))
    .to_vec();
    ways.push(canary.to_owned());
    ways.push(format!("..{canary}"));
    ways.push(format!("{}{absolute}", "../".repeat(40)));
    ways.push(format!("{}{absolute}", "../".repeat(1400)));
    ways.push(format!("{}../{absolute}", "dir/../".repeat(500)));
    ways.push(format!("{}../other/secret", "./".repeat(1500)));
    ways.push(format!("/{}", "x".repeat(5000)));
    ways.push("x".repeat(256));
    ways.push("x/".repeat(3000));
    ways
}

/// Paths that are ordinary names, and would lead out only for a reader that decodes them.
const ODD: [&str; 12] = [
    "..\\..\\etc\\passwd",
    "..\\other\\secret",
    "%2e%2e/other/secret",
    "%2e%2e%2fother%2fsecret",
    "．．/other/secret",
    "..%00/other/secret",
    "~",
    "~root/.ssh",
    "file:///etc/passwd",
    "$HOME/x",
    "...",
    ".. /other/secret",
];

/// Every function that takes a path, on this descriptor and path.
fn attempts_at(fd: u32, path: &str) -> Vec<String> {
    let other = if fd == READ_ONLY { SCRATCH } else { READ_ONLY };
    let mut lines = Vec::new();
    for flags in ["r", "rf", "rd", "rdf", "wc", "rwcf", "wt", "wce"] {
        lines.push(format!("raw\topen\t{fd}\t{flags}\t{path}"));
    }
    for function in ["stat-at", "set-times-at", "mkdir", "rmdir", "unlink", "readlink"] {
        lines.push(format!("raw\t{function}\t{fd}\t{path}"));
    }
    lines.push(format!("raw\tsymlink\ten\t{fd}\t{path}"));
    lines.push(format!("raw\trename\t{fd}\t{path}\t{SCRATCH}\tstolen"));
    lines.push(format!("raw\trename\t{SCRATCH}\town\t{fd}\t{path}"));
    lines.push(format!("raw\tlink\t{fd}\t{path}\t{SCRATCH}\tstolen"));
    lines.push(format!("raw\tlink\t{other}\town\t{fd}\t{path}"));
    lines
}

/// Everything that would change the read-only mount: each set of flags that requests it, and each other function.
fn changes() -> Vec<String> {
    let mut lines = Vec::new();
    for bits in 0..64_u32 {
        let flags: String = "wtceda"
            .chars()
            .enumerate()
            .filter(|(at, _)| bits & 1 << at != 0)
            .map(|(_, flag)| flag)
            .collect();
        if flags.contains(['w', 't']) {
            lines.push(format!("raw\topen\t{READ_ONLY}\tr{flags}\ten"));
        }
        if flags.contains('c') {
            lines.push(format!("raw\topen\t{READ_ONLY}\tr{flags}\tnew"));
        }
    }
    for path in ["en", "./en", "new", ".", "./", "", "en/", "en/.", "en/..", "en/../en", "new/"] {
        for function in ["mkdir", "rmdir", "unlink", "set-times-at"] {
            lines.push(format!("raw\t{function}\t{READ_ONLY}\t{path}"));
        }
        lines.push(format!("raw\tsymlink\ten\t{READ_ONLY}\t{path}"));
        lines.push(format!("raw\tlink\t{READ_ONLY}\ten\t{READ_ONLY}\t{path}"));
        lines.push(format!("raw\trename\t{READ_ONLY}\t{path}\t{READ_ONLY}\tde"));
        lines.push(format!("raw\trename\t{READ_ONLY}\tde\t{READ_ONLY}\t{path}"));
        lines.push(format!("raw\trename\t{READ_ONLY}\t{path}\t{SCRATCH}\tstolen"));
        lines.push(format!("raw\trename\t{SCRATCH}\town\t{READ_ONLY}\t{path}"));
    }
    for function in ["set-times", "set-size", "allocate", "write"] {
        let argument = if function == "set-times" { "" } else { "\t0" };
        lines.push(format!("raw\t{function}\t{READ_ONLY}{argument}"));
    }
    lines
}

/// Operations on descriptors that the guest was not given. It has one of its own after those of the mounts.
fn guesses() -> Vec<String> {
    let mut lines = Vec::new();
    for fd in [0_u32, 1, 2, 7, 8, 9, 63, 64, 1023, 1024, 65_535, 1 << 31, u32::MAX - 1, u32::MAX] {
        lines.push(format!("raw\topen\t{fd}\trd\t."));
        lines.push(format!("raw\topen\t{fd}\tr\tetc/passwd"));
        lines.push(format!("raw\treaddir\t{fd}"));
        lines.push(format!("raw\tprestat\t{fd}"));
        lines.push(format!("raw\trename\t{fd}\tx\t{SCRATCH}\tstolen"));
        lines.push(format!("raw\tset-size\t{fd}\t0"));
        if fd > 2 {
            lines.push(format!("raw\tread\t{fd}"));
            lines.push(format!("raw\twrite\t{fd}\tx"));
            lines.push(format!("raw\trenumber\t{fd}\t{READ_ONLY}"));
            lines.push(format!("raw\tclose\t{fd}"));
        }
    }
    lines
}

/// Links that a guest creates in its scratch folder, and the paths that it opens through them.
fn links(canary: &str) -> (Vec<String>, Vec<String>) {
    let mut made = Vec::new();
    let mut tried = Vec::new();
    let up = format!("{}{}", "../".repeat(30), canary.trim_start_matches('/'));
    for target in ["/", "/etc/passwd", "/proc/self/root", "/other/secret", "/words/en", "//", canary, ""] {
        tried.push(format!("raw\tsymlink\t{target}\t{SCRATCH}\tabsolute"));
        tried.push(format!("raw\tsymlink\t{target}\t{SCRATCH}\tdir/absolute"));
    }
    for (at, (place, target)) in [
        ("", ".."),
        ("", "../"),
        ("", "../other/secret"),
        ("", "./../other"),
        ("", up.as_str()),
        ("", "dir/../.."),
        ("dir/", "../.."),
        ("dir/", "../../other/secret"),
        ("dir/sub/", "../../../other/secret"),
        ("", "chain-1"),
        ("", "loop"),
        ("", "loop-a"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("{place}link-{at}");
        made.push(format!("raw\tsymlink\t{target}\t{SCRATCH}\t{name}"));
        for path in [format!("{name}/"), format!("{name}/other/secret"), format!("{name}/../../other/secret")]
        {
            tried.extend(attempts_at(SCRATCH, &path));
        }
        for flags in ["rf", "rwf", "rcf", "rwctf", "rdf", "r", "rw"] {
            tried.push(format!("raw\topen\t{SCRATCH}\t{flags}\t{name}"));
        }
        tried.push(format!("raw\tstat-at\t{SCRATCH}\t{name}"));
        tried.push(format!("read\t/tmp/{name}"));
        tried.push(format!("list\t/tmp/{name}"));
    }
    for (name, target) in
        [("chain-1", "chain-2"), ("chain-2", "dir/chain-3"), ("dir/chain-3", "../../other/secret")]
    {
        made.push(format!("raw\tsymlink\t{target}\t{SCRATCH}\t{name}"));
        tried.push(format!("raw\topen\t{SCRATCH}\trf\t{name}"));
    }
    for (name, target) in [("loop", "loop"), ("loop-a", "loop-b"), ("loop-b", "./loop-a")] {
        made.push(format!("raw\tsymlink\t{target}\t{SCRATCH}\t{name}"));
        tried.push(format!("raw\topen\t{SCRATCH}\trf\t{name}"));
    }
    (made, tried)
}

#[tokio::test]
async fn no_attempt_escapes_its_mount_or_changes_a_read_only_one() {
    let host = tempfile::tempdir().unwrap();
    let canary = host.path().join("canary");
    std::fs::write(&canary, CANARY).unwrap();
    let canary = canary.to_str().unwrap();

    let content = [("en", "one"), ("de", "eins")];
    let mounts =
        [words("/words", &content), scratch("/tmp", 1024 * KIB), words("/other", &[("secret", NEIGHBOUR)])];
    let (made, tried) = links(canary);
    let mut attempts = Vec::new();
    for way in ways_out(canary) {
        attempts.extend(attempts_at(READ_ONLY, &way));
        attempts.extend(attempts_at(SCRATCH, &way));
    }
    for odd in ODD {
        for fd in [READ_ONLY, SCRATCH] {
            attempts.push(format!("raw\topen\t{fd}\trf\t{odd}"));
            attempts.push(format!("raw\tstat-at\t{fd}\t{odd}"));
            attempts.push(format!("raw\treadlink\t{fd}\t{odd}"));
        }
    }
    attempts.extend(changes());
    attempts.extend(guesses());
    attempts.extend(tried);
    let std = [canary, "/etc/passwd", "/tmp/../etc/passwd", "/words/../../etc/passwd", "../etc/passwd"];
    attempts.extend(std.map(|path| format!("read\t{path}")));
    attempts.push("list\t/".to_owned());
    // An open directory that is moved deeper has no way up, neither from its old place nor from its new one.
    attempts.push("raw\topen\t6\tr\t../own".to_owned());
    attempts.push("raw\topen\t6\tr\t../../../other/secret".to_owned());

    let setup = ["mkdirs\t/tmp/dir/sub".to_owned(), "write\t/tmp/own\tmine".to_owned()];
    let moved = [
        "mkdirs\t/tmp/open".to_owned(),
        format!("raw\topen\t{SCRATCH}\trd\topen"),
        "rename\t/tmp/open\t/tmp/dir/sub/open".to_owned(),
    ];
    let prepare: Vec<_> = setup.into_iter().chain(made).chain(moved).collect();
    let after =
        ["read\t/words/en", "read\t/words/de", "list\t/words", "read\t/tmp/own", "read\t/other/secret"];
    for file in GUESTS {
        let mut spec = spec(&mounts);
        spec.limits.request_bytes = 16 << 20;
        spec.limits.response_bytes = 16 << 20;
        let plugin = load(guest(file), spec).await.unwrap();
        let script: Vec<_> = prepare.iter().chain(&attempts).map(String::as_str).chain(after).collect();
        let answers = run(&plugin, &script).await.unwrap();
        assert_eq!(answers.len(), script.len(), "{file}");
        let (prepared, rest) = answers.split_at(prepare.len());
        assert!(prepared.iter().all(|answer| answer.starts_with("ok")), "{file}: {prepared:?}");
        let (tried, after) = rest.split_at(attempts.len());
        let succeeded: Vec<_> =
            attempts.iter().zip(tried).filter(|(_, answer)| answer.starts_with("ok")).collect();
        assert!(succeeded.is_empty(), "{file}: {} of {}: {succeeded:#?}", succeeded.len(), attempts.len());
        let leaked = tried.iter().find(|answer| answer.contains("canary") || answer.contains("root:"));
        assert_eq!(leaked, None, "{file}");
        assert_eq!(after, ["ok one", "ok eins", "ok de en", "ok mine", &format!("ok {NEIGHBOUR}")], "{file}");
        // The instance and the mounts of the next call.
        let again = run(&plugin, &["read\t/words/en", "read\t/words/de", "list\t/words", "list\t/tmp"]).await;
        assert_eq!(again.unwrap(), ["ok one", "ok eins", "ok de en", "ok"], "{file}");
        println!("{file}: {} attempts, 0 succeeded", attempts.len());
    }
    assert_eq!(std::fs::read_to_string(canary).unwrap(), CANARY);
    assert_eq!(std::fs::read_dir(host.path()).unwrap().count(), 1, "a file was created beside it");
    assert!(attempts.len() >= 200);
}
