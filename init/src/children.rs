//! The roles of `plasmd`: who they are, what they may, and how one is started.
//!
//! Between fork and exec a child loses everything it does not need, in this order: cgroup with memory and process caps, own
//! session, empty bounding set, own user and group, exactly the capabilities of its role (as ambient ones, so that they
//! survive exec), no new privileges, death with its parent, its sandbox (see `sandbox`), an empty signal mask. Every descriptor but 0 to 3 closes at
//! exec. Its output is a pipe and its reports a socket pair that `init` reads with bounds; it reads from `/dev/null`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use boot_manifest::handoff;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Gid, Pid, Resource, Rlimit, Signal, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::cmdline::{Mode, Options, Share};
use crate::limits;
use crate::sandbox;
use crate::sys;

/// The number under which a child finds its end of the socket pair. `init` keeps it occupied (see `Machine::start`), so
/// that it never clashes with a descriptor that `std` uses while it starts a child.
pub(crate) const REPORT_FD: i32 = 3;

/// The program of all roles.
pub(crate) const PROGRAM: &str = "/bin/plasmd";

/// What a child does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Links, DHCP, addresses.
    Net,
    /// HTTP, announcements.
    Serve,
    /// Fetches a successor.
    Stage,
    /// Tells the provider of this boot how far it came, and ends.
    Report,
    /// Announces in the DHT what is served, and answers others of it.
    Dht,
    /// Looks for newer images, and asks the neighbours for the turn to start one.
    Update,
    /// Tries the machine's own services as a client would, and ends.
    Probe,
}

impl Role {
    /// All of them.
    const ALL: [Self; 7] = [
        Self::Net,
        Self::Serve,
        Self::Stage,
        Self::Report,
        Self::Dht,
        Self::Update,
        Self::Probe,
    ];
}

impl Role {
    /// The name on the console, of the cgroup and of the subcommand.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Net => "net",
            Self::Serve => "serve",
            Self::Stage => "stage",
            Self::Report => "report",
            Self::Dht => "dht",
            Self::Update => "update",
            Self::Probe => "probe",
        }
    }

    /// User and group.
    pub(crate) fn id(self) -> u32 {
        match self {
            Self::Net => 101,
            Self::Serve => 102,
            Self::Stage => 103,
            Self::Report => 104,
            Self::Dht => 105,
            Self::Update => 106,
            Self::Probe => 107,
        }
    }

    fn capabilities(self) -> CapabilitySet {
        match self {
            Self::Net => CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW,
            // For the ports of DHCP and TFTP, which it opens before anything else, and then gives this up.
            Self::Serve => CapabilitySet::NET_BIND_SERVICE,
            // For the port of DHCP clients, where the answer to a machine without an address arrives.
            Self::Probe => CapabilitySet::NET_BIND_SERVICE,
            Self::Stage | Self::Report | Self::Dht | Self::Update => CapabilitySet::empty(),
        }
    }

    /// Bytes of memory it may use. `stage` holds everything it fetches; the others need little, but what they read from the
    /// squashfs is counted too (and given back when it is short).
    fn memory_max(self, total: u64) -> u64 {
        match self {
            Self::Net | Self::Report | Self::Dht | Self::Probe => 32 << 20,
            // It holds manifests, chains and statements of all sources that it compares.
            Self::Update => 48 << 20,
            Self::Serve => (total / 4).max(48 << 20),
            Self::Stage => (total / 5 * 3).max(96 << 20),
        }
    }

    /// Threads it may have.
    fn pids_max(self) -> u32 {
        match self {
            Self::Net | Self::Report | Self::Dht | Self::Update | Self::Probe => 16,
            Self::Serve | Self::Stage => 64,
        }
    }
}

/// Where the artifacts are that `serve` offers.
#[derive(Debug, Clone)]
pub(crate) struct Offer {
    pub(crate) channel: String,
    pub(crate) arch: String,
}

/// The arguments of a role.
pub(crate) fn arguments(
    role: Role,
    options: &Options,
    host: &str,
    offer: Option<&Offer>,
) -> Vec<String> {
    let own = |words: &[&str]| {
        words
            .iter()
            .map(|word| (*word).to_owned())
            .collect::<Vec<_>>()
    };
    let channel = options
        .channel
        .as_ref()
        .map_or("stable", |channel| channel.as_str());
    let arch = boot_manifest::Arch::host().as_str();
    let offered = offer.map_or((channel, arch), |offer| {
        (offer.channel.as_str(), offer.arch.as_str())
    });
    let channel_and_arch = offered;
    let mut arguments = own(&[role.name()]);
    match role {
        Role::Net => {
            arguments.extend(own(&["--hostname", host]));
            if options.may_search() {
                arguments.extend(own(&["--find-provider"]));
            }
            if Path::new(crate::root::LEASE_BROUGHT).exists() {
                arguments.extend(own(&["--resume", crate::root::LEASE_BROUGHT]));
            }
        }
        Role::Serve => {
            let (channel, arch) = offered;
            let port = options.port.to_string();
            arguments.extend(own(&[
                "--appliance",
                "--artifacts",
                crate::root::ARTIFACTS,
                "--channel",
                channel,
                "--arch",
                arch,
            ]));
            arguments.extend(own(&[
                "--bind",
                "::",
                "--port",
                &port,
                "--trust-root",
                crate::root::TRUST_ROOT,
            ]));
            // There is nobody on this machine who could use it. The DHT has a role of its own: this one may not connect.
            arguments.extend(own(&["--control-socket", "off", "--no-dht"]));
            if !options.advertises() {
                arguments.extend(own(&["--no-mdns"]));
            }
            if !options.answers_boots() {
                arguments.extend(own(&["--dhcp", "off"]));
            }
        }
        Role::Stage => {
            match options.provider.as_deref() {
                Some(provider) => arguments.extend(own(&["--provider", provider])),
                None => arguments.extend(dht(options)),
            }
            if !options.advertises() {
                arguments.extend(own(&["--no-mdns"]));
            }
            if options.mode == Mode::Private {
                arguments.extend(own(&["--no-reports", "--no-peers"]));
            }
            if options.shares() {
                arguments.extend(own(&["--share", &options.port.to_string()]));
            }
            if let (true, Share::Rate(rate)) = (options.shares(), &options.share) {
                arguments.extend(own(&["--share-rate", rate]));
            }
            arguments.extend(own(&["--channel", channel, "--arch", arch]));
            arguments.extend(own(&[
                "--trust-root",
                crate::root::TRUST_ROOT,
                "--image-info",
                crate::root::IMAGE_INFO,
            ]));
        }
        Role::Dht => {
            let (channel, arch) = offered;
            let (port, http) = (limits::DHT_PORT.to_string(), options.port.to_string());
            arguments.extend(own(&["--artifacts", crate::root::ARTIFACTS]));
            arguments.extend(own(&["--channel", channel, "--arch", arch]));
            arguments.extend(own(&["--http-port", &http, "--dht-port", &port]));
            arguments.extend(dht(options));
        }
        Role::Update => arguments.extend(update(options, channel_and_arch)),
        Role::Probe => arguments.extend(probe(options, channel_and_arch)),
        Role::Report => {
            let origin = options.told_of_the_boot().unwrap_or_default();
            arguments.extend(own(&["--to", origin]));
        }
    }
    arguments
}

/// Where the manifest that runs lies.
fn running_manifest((channel, arch): (&str, &str)) -> String {
    format!("{}/{channel}/{arch}/manifest.json", crate::root::ARTIFACTS)
}

/// What `update` is told. In one word each, as for the DHT.
fn update(options: &Options, (channel, arch): (&str, &str)) -> Vec<String> {
    let upgrades = &options.upgrades;
    let mut arguments = vec![
        format!("--channel={channel}"),
        format!("--arch={arch}"),
        format!("--running={}", running_manifest((channel, arch))),
        format!("--trust-root={}", crate::root::TRUST_ROOT),
        format!("--image-info={}", crate::root::IMAGE_INFO),
        format!("--http-port={}", options.port),
        format!("--poll={}", upgrades.policy.poll.as_secs()),
    ];
    let origin = options.origin.iter();
    arguments.extend(origin.map(|origin| format!("--origin={origin}")));
    let others = upgrades.from.iter();
    arguments.extend(others.map(|from| format!("--from={from}")));
    if !options.advertises() {
        arguments.push("--no-mdns".to_owned());
    }
    arguments
}

/// What `probe` is told.
fn probe(options: &Options, (channel, arch): (&str, &str)) -> Vec<String> {
    let mut arguments = vec![
        format!("--channel={channel}"),
        format!("--arch={arch}"),
        format!("--manifest={}", running_manifest((channel, arch))),
        format!("--trust-root={}", crate::root::TRUST_ROOT),
        format!("--port={}", options.port),
    ];
    if !options.advertises() {
        arguments.push("--no-mdns".to_owned());
    }
    if !options.answers_boots() {
        arguments.push("--no-dhcp".to_owned());
    }
    arguments
}

/// What `stage` is told when it fetches just one image, while `serve` has the port: it gives others nothing, and looks for
/// nobody.
pub(crate) fn fetch_arguments(digest: &str, origin: &str, offer: &Offer) -> Vec<String> {
    vec![
        "stage".to_owned(),
        format!("--want={digest}"),
        format!("--provider={origin}"),
        format!("--channel={}", offer.channel),
        format!("--arch={}", offer.arch),
        format!("--trust-root={}", crate::root::TRUST_ROOT),
        format!("--image-info={}", crate::root::IMAGE_INFO),
        "--no-mdns".to_owned(),
        "--no-reports".to_owned(),
        "--no-peers".to_owned(),
    ]
}

/// What a role that uses the DHT is told of it. In one word each: what an operator typed must not become a flag.
fn dht(options: &Options) -> Vec<String> {
    if !options.uses_dht() {
        return vec!["--no-dht".to_owned()];
    }
    let all = options.bootstrap.iter();
    all.map(|one| format!("--bootstrap={one}")).collect()
}

/// The TCP port that a role is about: where `serve`, `stage` and `dht` listen, and where `report` connects to; 0 for none.
fn port(role: Role, options: &Options) -> u16 {
    let origin = || options.origin.as_deref().and_then(crate::cmdline::port_of);
    match role {
        Role::Report => origin().unwrap_or(0),
        Role::Dht => limits::DHT_PORT,
        Role::Stage if !options.shares() => 0,
        Role::Update => 0,
        Role::Net | Role::Serve | Role::Stage | Role::Probe => options.port,
    }
}

/// A child that runs.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) pid: Pid,
    pub(crate) started: Instant,
    /// Its reports; `None` once it closed its end, which would be ready for ever.
    pub(crate) reports: Option<OwnedFd>,
    /// What it prints; `None` as above.
    pub(crate) output: Option<OwnedFd>,
}

/// Starts a role.
pub(crate) fn start(
    role: Role,
    arguments: &[String],
    options: &Options,
    now: Instant,
) -> io::Result<Running> {
    let (reports, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    // Their end blocks, unless they choose otherwise: a full socket must slow them down, not lose reports.
    rustix::io::ioctl_fionbio(&theirs, false)?;
    let (output, their_output) = io::pipe()?;
    rustix::io::ioctl_fionbio(&output, true)?;
    let null = File::open("/dev/null")?;
    let mut command = Command::new(PROGRAM);
    command
        .args(arguments)
        .env_clear()
        .env(handoff::ENV, REPORT_FD.to_string())
        .env("PATH", "/bin")
        .env("RUST_LOG", options.log_level)
        .current_dir("/")
        .stdin(Stdio::from(null))
        .stdout(Stdio::from(their_output.try_clone()?))
        .stderr(Stdio::from(their_output));
    let confinement = Confinement {
        id: role.id(),
        capabilities: role.capabilities(),
        cgroup: open_cgroup(role)?,
        reports: theirs,
        ruleset: sandbox::ruleset(role, port(role, options))?,
        filter: sandbox::filter(),
    };
    let child = sys::spawn(&mut command, move || confinement.enter())?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other("the kernel gave no process id"))?;
    Ok(Running {
        pid,
        started: now,
        reports: Some(reports),
        output: Some(output.into()),
    })
}

/// What a child becomes before exec. Everything that can be made ready in the parent is.
struct Confinement {
    id: u32,
    capabilities: CapabilitySet,
    cgroup: Option<File>,
    reports: OwnedFd,
    ruleset: Option<OwnedFd>,
    filter: Vec<libc::sock_filter>,
}

impl Confinement {
    /// Runs in the child.
    fn enter(&self) -> io::Result<()> {
        if let Some(mut cgroup) = self.cgroup.as_ref() {
            cgroup.write_all(b"0")?;
        }
        rustix::process::setsid()?;
        become_user(self.id, self.capabilities)?;
        rustix::thread::set_no_new_privs(true)?;
        // After the change of user, which resets it.
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        let none = Rlimit {
            current: Some(0),
            maximum: Some(0),
        };
        rustix::process::setrlimit(Resource::Core, none)?;
        sys::unblock_signals()?;
        sys::place_fd(self.reports.as_fd(), REPORT_FD)?;
        if let Some(ruleset) = &self.ruleset {
            sys::restrict(ruleset.as_fd())?;
        }
        sys::install_filter(&self.filter)
    }
}

/// Gives up root: the bounding set first, while that is still allowed, and exactly `capabilities` stay.
fn become_user(id: u32, capabilities: CapabilitySet) -> io::Result<()> {
    for capability in CapabilitySet::all().difference(capabilities).iter() {
        // EINVAL: a capability that this kernel does not know cannot be had either.
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
    rustix::thread::set_keep_capabilities(true)?;
    let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    let sets = CapabilitySets {
        effective: capabilities,
        permitted: capabilities,
        inheritable: capabilities,
    };
    rustix::thread::set_capabilities(None, sets)?;
    for capability in capabilities.iter() {
        rustix::thread::configure_capability_in_ambient_set(capability, true)?;
    }
    Ok(())
}

const CGROUPS: &str = "/sys/fs/cgroup";

/// Makes a cgroup for each role. Complaints instead of errors: without limits the roles still run.
pub(crate) fn make_cgroups(memory_total: u64) -> Vec<String> {
    let mut complaints = Vec::new();
    let root = Path::new(CGROUPS);
    let mut write = |path: PathBuf, value: &str| {
        if let Err(error) = fs::write(&path, value) {
            complaints.push(format!("{} = {value}: {error}", path.display()));
        }
    };
    for controller in ["+memory", "+pids", "+cpu"] {
        write(root.join("cgroup.subtree_control"), controller);
    }
    for role in Role::ALL {
        let group = root.join(role.name());
        if crate::mounts::make_directory(&group).is_ok() {
            write(
                group.join("memory.max"),
                &role.memory_max(memory_total).to_string(),
            );
            write(group.join("memory.oom.group"), "1");
            write(group.join("pids.max"), &role.pids_max().to_string());
        }
    }
    complaints
}

fn open_cgroup(role: Role) -> io::Result<Option<File>> {
    let path = Path::new(CGROUPS).join(role.name()).join("cgroup.procs");
    match OpenOptions::new().write(true).open(path) {
        Ok(file) => Ok(Some(file)),
        // Said once by `make_cgroups`.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Ends every process of a role at once, those included that left its session.
pub(crate) fn kill(role: Role, running: &Running) {
    let all = fs::write(
        Path::new(CGROUPS).join(role.name()).join("cgroup.kill"),
        "1",
    );
    if all.is_err() {
        let _gone = rustix::process::kill_process_group(running.pid, Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(role: Role, command_line: &str, expected: &str) {
        let (options, complaints) = crate::cmdline::parse(command_line);
        assert_eq!(complaints, Vec::<String>::new());
        let offer = Offer {
            channel: "beta".to_owned(),
            arch: "x86_64".to_owned(),
        };
        assert_eq!(
            arguments(role, &options, "phase-1", Some(&offer)).join(" "),
            expected
        );
    }

    #[test]
    fn the_upgrade_roles_are_told_what_the_line_says() {
        let told = "--running=/run/phase/artifacts/beta/x86_64/manifest.json \
                    --trust-root=/etc/phase/trust-root.json --image-info=/etc/phase/image.json --http-port=8080";
        check(
            Role::Update,
            "",
            &format!("update --channel=beta --arch=x86_64 {told} --poll=900"),
        );
        check(
            Role::Update,
            "phase.origin=http://a:1 phase.upgrade.from=http://b,http://c phase.upgrade.poll=5 phase.mdns=off",
            &format!(
                "update --channel=beta --arch=x86_64 {told} --poll=5 --origin=http://a:1 --from=http://b \
                 --from=http://c --no-mdns"
            ),
        );
        check(
            Role::Probe,
            "phase.dhcp=off phase.port=81",
            "probe --channel=beta --arch=x86_64 --manifest=/run/phase/artifacts/beta/x86_64/manifest.json \
             --trust-root=/etc/phase/trust-root.json --port=81 --no-dhcp",
        );
    }

    #[test]
    fn command_lines_of_the_roles() {
        let arch = boot_manifest::Arch::host().as_str();
        check(Role::Net, "", "net --hostname phase-1 --find-provider");
        check(
            Role::Net,
            "phase.source=initramfs",
            "net --hostname phase-1",
        );
        let rest = "--trust-root /etc/phase/trust-root.json --image-info /etc/phase/image.json";
        let found = format!("--channel stable --arch {arch} {rest}");
        check(Role::Stage, "", &format!("stage --share 8080 {found}"));
        check(
            Role::Stage,
            "phase.mdns=off phase.bootstrap=a,b:1",
            &format!("stage --bootstrap=a --bootstrap=b:1 --no-mdns --share 8080 {found}"),
        );
        check(
            Role::Stage,
            "phase.mode=local phase.bootstrap=a",
            &format!("stage --no-dht --share 8080 {found}"),
        );
        check(
            Role::Stage,
            "phase.share=20M phase.port=80",
            &format!("stage --share 80 --share-rate 20M {found}"),
        );
        check(Role::Stage, "phase.share=off", &format!("stage {found}"));
        check(
            Role::Stage,
            "phase.mode=private",
            &format!("stage --no-dht --no-mdns --no-reports --no-peers {found}"),
        );
        check(
            Role::Stage,
            "phase.mode=private phase.provider=http://a:1",
            &format!("stage --provider http://a:1 --no-mdns --no-reports --no-peers {found}"),
        );
        check(
            Role::Report,
            "phase.origin=http://a:1",
            "report --to http://a:1",
        );
        check(
            Role::Dht,
            "phase.port=80 phase.bootstrap=10.0.0.1,/ip4/10.0.0.2/tcp/4011",
            "dht --artifacts /run/phase/artifacts --channel beta --arch x86_64 \
             --http-port 80 --dht-port 4011 --bootstrap=10.0.0.1 --bootstrap=/ip4/10.0.0.2/tcp/4011",
        );
        let serve = "serve --appliance --artifacts /run/phase/artifacts --channel beta --arch x86_64 --bind ::";
        check(
            Role::Serve,
            "",
            &format!(
                "{serve} --port 8080 --trust-root /etc/phase/trust-root.json --control-socket off --no-dht"
            ),
        );
        check(
            Role::Serve,
            "phase.mode=private phase.port=80",
            &format!(
                "{serve} --port 80 --trust-root /etc/phase/trust-root.json --control-socket off --no-dht --no-mdns --dhcp off"
            ),
        );
        check(
            Role::Stage,
            "phase.provider=http://a:1 phase.channel=beta",
            &format!(
                "stage --provider http://a:1 --share 8080 --channel beta --arch {arch} --trust-root /etc/phase/trust-root.json \
                 --image-info /etc/phase/image.json"
            ),
        );
    }

    #[test]
    fn stage_listens_only_to_share() {
        for (line, expected) in [
            ("", 8080),
            ("phase.port=80 phase.share=1M", 80),
            ("phase.share=off", 0),
            ("phase.mode=private", 0),
        ] {
            let (options, _) = crate::cmdline::parse(line);
            assert_eq!(port(Role::Stage, &options), expected, "{line}");
            assert_eq!(port(Role::Serve, &options), options.port, "{line}");
        }
    }

    #[test]
    fn roles_have_the_capabilities_of_their_work() {
        assert_eq!(
            Role::Net.capabilities(),
            CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW
        );
        assert_eq!(Role::Serve.capabilities(), CapabilitySet::NET_BIND_SERVICE);
        let others = [Role::Stage, Role::Report, Role::Dht];
        assert!(others.iter().all(|role| role.capabilities().is_empty()));
        assert_eq!(Role::ALL.map(Role::id), [101, 102, 103, 104, 105, 106, 107]);
    }

    #[test]
    fn children_cannot_take_a_small_machine() {
        let total = 220 << 20;
        assert!(Role::Stage.memory_max(total) < total * 2 / 3);
        assert!(Role::Serve.memory_max(total) + Role::Net.memory_max(total) < total / 2);
    }
}
