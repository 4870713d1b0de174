//! What a provider has given up, and whether the kernel holds it to that.

#[path = "../../../src/serve/sandbox.rs"]
mod rules;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::io::Errno;
use rustix::process::Signal;

use crate::provider::{Provider, Tree};

use self::rules::{Connect, Mode, Plan, enter};

/// The lines of `/proc/PID/task/*/status` that say what a thread may do, once for all threads.
fn limits(pid: u32) -> BTreeMap<String, String> {
    let mut all: Option<BTreeMap<String, String>> = None;
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let wanted = [
            "Uid",
            "Gid",
            "Groups",
            "CapInh",
            "CapPrm",
            "CapEff",
            "CapBnd",
            "CapAmb",
            "NoNewPrivs",
            "Seccomp",
            "Seccomp_filters",
        ];
        let found: BTreeMap<String, String> = status
            .lines()
            .filter_map(|line| line.split_once(':'))
            .filter(|(key, _)| wanted.contains(key))
            .map(|(key, value)| {
                (
                    key.to_owned(),
                    value.split_whitespace().collect::<Vec<_>>().join(" "),
                )
            })
            .collect();
        match &all {
            None => all = Some(found),
            Some(all) => assert_eq!(*all, found, "every thread is confined alike"),
        }
    }
    all.unwrap()
}

const NOTHING: &str = "0000000000000000";

#[test]
fn every_thread_has_given_everything_up() {
    if !has("landlock") {
        return;
    }
    let tree = Tree::new(&[("stable/x86_64/vmlinuz", b"kernel")]);
    let provider = Provider::start(tree.root(), &["--sandbox", "require"]);
    let limits = limits(provider.pid());
    assert_eq!(limits["NoNewPrivs"], "1");
    assert_eq!(limits["Seccomp"], "2");
    if rustix::process::geteuid().is_root() {
        // Reading what belongs to others is what it was started as root for.
        assert_eq!(limits["CapEff"], "0000000000000004");
        assert_eq!(limits["CapBnd"], "0000000000000004");
    } else {
        assert_eq!(limits["CapEff"], NOTHING);
    }
    let process = &provider.get("/status").json()["process"];
    let sandbox = process["sandbox"].as_str().unwrap();
    assert!(
        sandbox.starts_with("landlock") && sandbox.ends_with(", seccomp"),
        "{sandbox}"
    );
    assert_eq!(process["pid"], provider.pid());
    let url = format!("http://{}/", provider.address);
    assert_eq!(process["listeners"][0], url);
    // What this process is can still be seen.
    let metrics = provider.get("/metrics").text();
    assert!(
        metrics.contains("\nprocess_resident_memory_bytes "),
        "{metrics}"
    );
    assert!(metrics.contains("\nprocess_open_fds "), "{metrics}");
}

#[test]
fn root_becomes_somebody_else() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: root_becomes_somebody_else: needs root to become another user");
        return;
    }
    let tree = Tree::new(&[("stable/x86_64/vmlinuz", b"kernel")]);
    let state = tempfile::tempdir().unwrap();
    let flags = ["--tls-port", "0", "--user", "nobody", "--state-dir"];
    let flags = [&flags[..], &[state.path().to_str().unwrap()]].concat();
    let mut provider = Provider::start(tree.root(), &flags);
    let limits = limits(provider.pid());
    assert_eq!(limits["Uid"], "65534 65534 65534 65534");
    assert_eq!(limits["Gid"], "65534 65534 65534 65534");
    assert_eq!(limits["Groups"], "65534");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(limits[set], NOTHING, "{set}");
    }
    assert_eq!(provider.get("/stable/x86_64/vmlinuz").body, b"kernel");
    assert!(!provider.get("/").head.is_empty());
    // The keys that it made as root are its own now; a missing certificate is made again.
    fs::remove_file(state.path().join("tls-v1/server.pem")).unwrap();
    provider.signal(Signal::HUP);
    provider.wait_for_log("made a certificate");
    let line = provider.wait_for_log(" reloaded ");
    assert!(line.contains("changed=\"certificate\""), "{line}");
}

#[test]
fn nobody_becomes_somebody_else() {
    use std::os::unix::process::CommandExt as _;

    let tree = Tree::new(&[]);
    let mut command = Command::new(crate::provider::PLASMD);
    command
        .args(["serve", "-p", "0", "--user", "root", "-a"])
        .arg(tree.root());
    if rustix::process::geteuid().is_root() {
        command.uid(65_534).gid(65_534);
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("only root can become another user"), "{said}");
}

#[test]
fn a_file_that_was_replaced_by_a_link_to_elsewhere_is_not_read() {
    if !has("landlock") {
        return;
    }
    let tree = Tree::new(&[("stable/x86_64/vmlinuz", b"kernel")]);
    let (own, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let key = |folder: &Path| folder.join("release.key").to_str().unwrap().to_owned();
    for folder in [own.path(), elsewhere.path()] {
        let made = crate::provider::plasmd(&["key", "generate", "--out", &key(folder)]);
        assert!(made.status.success(), "{made:?}");
    }
    for (sandbox, is_read) in [("require", false), ("off", true)] {
        let flags = ["--key", &key(own.path()), "--sandbox", sandbox];
        let mut provider = Provider::start(tree.root(), &flags);
        let aside = own.path().join("aside");
        fs::rename(key(own.path()), &aside).unwrap();
        symlink(key(elsewhere.path()), key(own.path())).unwrap();
        provider.signal(Signal::HUP);
        if is_read {
            assert!(provider.wait_for_log(" reloaded ").contains("problems=0"));
        } else {
            let line = provider.wait_for_log("not reloaded");
            assert!(line.contains("Permission denied"), "{line}");
            provider.wait_for_log(" reloaded ");
        }
        // Replaced by another file of the same folder it is read.
        fs::rename(&aside, key(own.path())).unwrap();
        provider.forget_log();
        provider.signal(Signal::HUP);
        assert!(provider.wait_for_log(" reloaded ").contains("problems=0"));
    }
}

#[test]
fn where_landlock_cannot_be_had() {
    use landlock::{AccessFs, Ruleset, RulesetAttr as _};

    if !has("landlock") {
        return;
    }
    let tree = Tree::new(&[("stable/x86_64/vmlinuz", b"kernel")]);
    // The kernel stacks sixteen rulesets. These forbid making devices only, and are inherited.
    let [required, auto] = std::thread::spawn(move || {
        for _ in 0..16 {
            let ruleset = Ruleset::default()
                .handle_access(AccessFs::MakeBlock)
                .unwrap();
            ruleset.create().unwrap().restrict_self().unwrap();
        }
        let flags = [
            "serve",
            "-b",
            "127.0.0.1",
            "-p",
            "0",
            "--sandbox",
            "require",
            "-a",
        ];
        let root = tree.root().to_str().unwrap();
        let required = crate::provider::plasmd(&[&flags[..], &[root]].concat());
        let mut provider = Provider::start(tree.root(), &[]);
        let warning = provider.wait_for_log("a part of the sandbox cannot be had");
        let seccomp = limits(provider.pid())["Seccomp"].clone();
        let sandbox = provider.get("/status").json()["process"]["sandbox"].to_string();
        assert_eq!(required.status.code(), Some(3));
        let said = String::from_utf8_lossy(&required.stderr).into_owned();
        [said, [warning, seccomp, sandbox].join("|")]
    })
    .join()
    .unwrap();
    assert!(
        required.contains("cannot be confined: Landlock"),
        "{required}"
    );
    assert!(required.contains("hint: --sandbox auto"), "{required}");
    assert!(auto.ends_with("|2|\"no landlock, seccomp\""), "{auto}");
}

/// Whether this kernel has the sandbox `wanted` begins to describe; says so when not.
fn has(wanted: &str) -> bool {
    let found = std::thread::spawn(|| enter(Mode::Auto, &Plan::default()).unwrap().0.to_string());
    let found = found.join().unwrap();
    if !found.starts_with(wanted) {
        eprintln!("SKIPPED: serve::sandbox: this kernel has only this: {found}");
    }
    found.starts_with(wanted)
}

/// A thread under exactly the rules of a provider, which tries to get out.
fn confined<T: Send + 'static>(plan: Plan, escape: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(move || {
        let (confinement, missing) = enter(Mode::Require, &plan).unwrap();
        assert!(missing.is_empty(), "{missing:?}");
        assert_eq!(confinement.to_string(), "landlock, seccomp");
        escape()
    });
    thread.join().unwrap()
}

fn denied<T>(what: &str, outcome: std::io::Result<T>) {
    match outcome {
        Ok(_) => panic!("{what} is possible"),
        Err(error) => {
            let errno = error.raw_os_error();
            let expected = [Errno::PERM, Errno::ACCESS].map(|errno| Some(errno.raw_os_error()));
            assert!(expected.contains(&errno), "{what}: {error}");
        }
    }
}

#[test]
fn ways_out() {
    if !has("landlock, seccomp") {
        return;
    }
    let inside = Tree::new(&[("a/file", b"inside"), ("state/kept", b"")]);
    let outside = Tree::new(&[("secret", b"outside")]);
    symlink(outside.path("secret"), inside.path("a/link")).unwrap();
    fs::hard_link(outside.path("secret"), inside.path("a/hard")).unwrap();
    let (inside_path, outside_path) = (inside.root().to_owned(), outside.root().to_owned());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let (own_port, other_address) = (
        listener.local_addr().unwrap().port(),
        other.local_addr().unwrap(),
    );
    let plan = Plan {
        read: vec![inside.path("a")],
        write: vec![inside.path("state")],
        connect: Connect::Only(vec![own_port]),
        listen: Vec::new(),
        makes_memory_files: false,
    };
    confined(plan, move || {
        files(&inside_path, &outside_path);
        denied("a program", Command::new("/bin/true").spawn());
        denied("listening", TcpListener::bind("127.0.0.1:0"));
        denied("connecting", TcpStream::connect(other_address));
        processes();
        sockets();
        memory();
        // What serving needs is left.
        assert_eq!(fs::read(inside_path.join("a/file")).unwrap(), b"inside");
        fs::write(inside_path.join("state/new"), "x").unwrap();
        fs::rename(
            inside_path.join("state/new"),
            inside_path.join("state/kept"),
        )
        .unwrap();
        TcpStream::connect(("127.0.0.1", own_port)).unwrap();
        UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(!if_addrs::get_if_addrs().unwrap().is_empty());
        std::thread::spawn(|| ()).join().unwrap();
    });
    drop((listener, other));
}

/// What more a member of the DHT may do: connect to the others, and listen on its one port.
#[test]
fn a_member_of_the_dht() {
    if !has("landlock, seccomp") {
        return;
    }
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let own_port = free.local_addr().unwrap().port();
    drop(free);
    let plan = Plan {
        connect: Connect::Anywhere,
        listen: vec![own_port],
        ..Plan::default()
    };
    confined(plan, move || {
        TcpStream::connect(address).unwrap();
        drop(TcpListener::bind(("127.0.0.1", own_port)).unwrap());
        denied("another port", TcpListener::bind("127.0.0.1:0"));
        denied("a program", Command::new("/bin/true").spawn());
        sockets();
    });
}

fn files(inside: &Path, outside: &Path) {
    let secret = outside.join("secret");
    denied("reading elsewhere", fs::read(&secret));
    denied("reading through a link", fs::read(inside.join("a/link")));
    denied(
        "reading through dots",
        fs::read(inside.join("a/..").join("other")).or_else(only_denied),
    );
    denied("listing elsewhere", fs::read_dir("/etc"));
    denied("reading devices", File::open("/dev/zero"));
    denied("writing elsewhere", fs::write(outside.join("new"), "x"));
    denied("making in artifacts", fs::write(inside.join("a/new"), "x"));
    let artifact = inside.join("a/file");
    denied(
        "changing artifacts",
        OpenOptions::new().append(true).open(&artifact),
    );
    denied("removing artifacts", fs::remove_file(&artifact));
    denied(
        "moving artifacts",
        fs::rename(&artifact, inside.join("state/file")).or_else(only_denied),
    );
    denied("folders", fs::create_dir(inside.join("state/folder")));
    denied("links", symlink(&secret, inside.join("state/link")));
    let open = File::open(&artifact).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o777);
    denied("modes", rustix::fs::fchmod(&open, mode).map_err(Into::into));
    let owner = rustix::fs::fchown(&open, None, None);
    denied("owners", owner.map_err(Into::into));
    denied("unsharing", unshare());
    // On a terminal it would type; on a file it is not possible either way, for another reason.
    denied("typing", type_into(&open));
}

/// A rename across folders is refused with EXDEV, and a path that cannot be walked with ENOENT: refused as well.
fn only_denied<T>(error: std::io::Error) -> std::io::Result<T> {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::XDEV | Errno::NOENT) => Err(Errno::ACCESS.into()),
        _ => Err(error),
    }
}

fn unshare() -> std::io::Result<()> {
    // SAFETY: nothing else runs in this thread, and the call is refused.
    #[expect(unsafe_code, reason = "no wrapper asks for a namespace without it")]
    let outcome = unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWUSER) };
    outcome.map_err(Into::into)
}

fn type_into(file: &File) -> std::io::Result<()> {
    use std::os::fd::AsRawFd as _;

    #[expect(unsafe_code, reason = "no wrapper asks a terminal for this")]
    // SAFETY: the kernel reads one byte that is there.
    let outcome = unsafe { libc::ioctl(file.as_raw_fd(), libc::TIOCSTI, b"x".as_ptr()) };
    if outcome == 0 {
        return Ok(());
    }
    Err(std::io::Error::last_os_error())
}

fn processes() {
    let parent = rustix::process::getppid().unwrap();
    let test = rustix::process::test_kill_process(parent);
    denied("signals to others", test.map_err(Into::into));
    let fd = rustix::process::pidfd_open(parent, rustix::process::PidfdFlags::empty());
    denied("handles of others", fd.map_err(Into::into));
    let environment: PathBuf = ["/proc", &parent.as_raw_nonzero().to_string(), "environ"]
        .iter()
        .collect();
    denied("looking into others", fs::read(environment));
    let memory = rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::empty());
    denied("programs in memory", memory.map_err(Into::into));
}

fn sockets() {
    use rustix::net::{AddressFamily, SocketType, ipproto, socket};

    let raw = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP));
    denied("raw sockets", raw.map_err(Into::into));
    let packet = socket(AddressFamily::PACKET, SocketType::DGRAM, None);
    denied("packets", packet.map_err(Into::into));
    let foreign = socket(AddressFamily::from_raw(40), SocketType::STREAM, None);
    denied("other families", foreign.map_err(Into::into));
}

fn memory() {
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

    #[expect(
        unsafe_code,
        reason = "mapping memory is unsafe, also when it is refused"
    )]
    // SAFETY: a new mapping, which nothing uses.
    let mapped = unsafe {
        mmap_anonymous(
            std::ptr::null_mut(),
            4096,
            ProtFlags::READ | ProtFlags::EXEC,
            MapFlags::PRIVATE,
        )
    };
    denied("executable memory", mapped.map(drop).map_err(Into::into));
}
