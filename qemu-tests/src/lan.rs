//! A LAN of its own for each story: a network namespace with a bridge, taps for machines, a real DHCP server
//! and stations for other hosts. Nothing in it can reach the outside, and nothing of it is left when it is
//! dropped.
//!
//! ```text
//!   Router            Nobody            BehindRelay                     BesideBootServer
//!   host: dnsmasq     host              host: relay ---- br1            host
//!   br0 ------ boot   br0 ------ boot   br0                |-- boot     br0 ------ boot server and
//!    | machines        | machines        | machines        '-- dnsmasq   | machines    dnsmasq
//! ```
//! With [`LanSpec::elsewhere`] there is a second segment that the host routes to, as in `BehindRelay`, and only machines that
//! know addresses in it get there: no broadcast and no multicast does.

mod router;

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::proc;
use crate::serial::Transcript;
use router::Service;

/// The host's address on the LAN: where hostile providers listen and `curl` calls from.
pub const HOST: &str = "10.77.0.1";
/// The host's address in the segment behind the relay, where there is one.
const HOST_BEHIND: &str = "10.78.0.1";
/// The host's address by IPv6, and the prefix that [`LanSpec::router`] advertises.
pub const HOST_V6: &str = "fd77::1";
/// A command on the LAN's host side that takes longer than this is stuck.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// Where `ip netns` keeps names.
const NAMESPACES: &str = "/run/netns";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Who gives the machines of a LAN their IPv4 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dhcp {
    /// A router at [`HOST`], as at home.
    Router,
    /// Nobody.
    Nobody,
    /// A server in another segment, behind a relay at [`HOST`]; the boot server stands there too.
    BehindRelay,
    /// A server on the boot server's own host, which tells PXE clients to ask at port 4011 there.
    BesideBootServer,
}

/// What a LAN offers besides its bridge.
#[derive(Clone, Copy, Debug)]
pub struct LanSpec {
    /// The DHCP server (dnsmasq).
    pub dhcp: Dhcp,
    /// The time after which clients should renew their lease (option 58); the server's own choice if absent.
    pub renew_after_s: Option<u32>,
    /// A router advertises the prefix of [`HOST_V6`].
    pub router: bool,
    /// That router gives addresses by DHCPv6 too.
    pub dhcp6: bool,
    /// There is another segment behind the host, which is the router of both (see [`Lan::elsewhere`]).
    pub elsewhere: bool,
    /// The switch keeps what one machine sends by multicast from all others.
    pub no_multicast: bool,
    /// The DHCP server sends UEFI machines that boot by HTTP over IPv4 where nobody serves, so that they go on to their
    /// next way at once.
    pub dead_http: bool,
}

impl Default for LanSpec {
    fn default() -> Self {
        Self {
            dhcp: Dhcp::Router,
            renew_after_s: None,
            router: false,
            dhcp6: false,
            elsewhere: false,
            no_multicast: false,
            dead_http: false,
        }
    }
}

/// A private LAN. Dropping it kills everything that runs in it and removes it.
#[derive(Debug)]
pub struct Lan {
    name: String,
    spec: LanSpec,
    logs: PathBuf,
    taps: AtomicU32,
    stations: Mutex<Vec<String>>,
    boot_server: OnceLock<Station>,
    services: Vec<Service>,
    /// Which of the services gives addresses.
    dhcp: Option<usize>,
    _scratch: tempfile::TempDir,
}

/// Another host on the LAN: a network namespace with one card, `eth0`, on a bridge.
#[derive(Clone, Debug)]
pub struct Station {
    /// The name of its namespace.
    pub namespace: String,
    /// Its address.
    pub address: String,
    /// The port of the bridge that it is connected to.
    pub port: String,
}

impl Station {
    /// The last number of the boot server's address.
    const BOOT_SERVER: u8 = 2;
    /// The last number of the address of a DHCP server with a host of its own.
    const DHCP: u8 = 3;
}

impl Lan {
    /// A LAN with a DHCP server; logs go to the folder `logs`.
    ///
    /// # Errors
    /// When the kernel or a missing program does not allow it.
    pub fn new(logs: &Path) -> Result<Self> {
        Self::with(logs, LanSpec::default())
    }

    /// A LAN with what `spec` says.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with(logs: &Path, spec: LanSpec) -> Result<Self> {
        remove_leftovers();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("phase-{}-{number}", std::process::id());
        let scratch = tempfile::tempdir()?;
        proc::must("ip", ["netns", "add", &name], "")?;
        let path = scratch.path().to_owned();
        // From here on Drop cleans up.
        let mut lan = Self {
            name,
            spec,
            logs: logs.to_owned(),
            taps: AtomicU32::new(0),
            stations: Mutex::default(),
            boot_server: OnceLock::new(),
            services: Vec::new(),
            dhcp: None,
            _scratch: scratch,
        };
        lan.ip(&format!(
            "link set lo up\n\
             link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
             addr add {HOST}/24 dev br0\n\
             addr add {HOST_V6}/64 dev br0 nodad\n\
             link set br0 up\n"
        ))?;
        lan.start_services(&path)?;
        Ok(lan)
    }

    fn start_services(&mut self, scratch: &Path) -> Result<()> {
        let (spec, logs) = (self.spec, self.logs.clone());
        if spec.elsewhere || spec.dhcp == Dhcp::BehindRelay {
            self.ip(&format!(
                "link add br1 type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
                 addr add {HOST_BEHIND}/24 dev br1\n\
                 link set br1 up\n"
            ))?;
            let forward = self.run(["sysctl", "-qw", "net.ipv4.ip_forward=1"])?;
            ensure!(forward.status.success(), "{}", proc::describe(&forward));
        }
        let host_side = router::host_side(&self.name, spec, scratch, &logs)?;
        self.services.extend(host_side);
        self.dhcp = match spec.dhcp {
            Dhcp::Router => Some(0),
            Dhcp::Nobody => None,
            Dhcp::BehindRelay | Dhcp::BesideBootServer => {
                let station = if spec.dhcp == Dhcp::BesideBootServer {
                    self.boot_server()?.clone()
                } else {
                    self.add_station(&within(HOST_BEHIND, Station::DHCP), "br1")?
                };
                let server = router::in_station(&station.namespace, spec, scratch, &logs)?;
                self.services.push(server);
                Some(self.services.len() - 1)
            }
        };
        Ok(())
    }

    /// The name of the namespace.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where this LAN's logs are.
    #[must_use]
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    /// What the DHCP server has logged.
    ///
    /// # Errors
    /// When this LAN has none.
    pub fn dhcp(&self) -> Result<&Transcript> {
        self.dhcp_service().map(|server| &server.log)
    }

    /// Ends the DHCP server, as a router does that loses power.
    ///
    /// # Errors
    /// When there is none.
    pub fn stop_dhcp(&self) -> Result<()> {
        self.dhcp_service()?.kill()
    }

    fn dhcp_service(&self) -> Result<&Service> {
        let server = self.dhcp.and_then(|number| self.services.get(number));
        server.context("this LAN has no DHCP server")
    }

    /// Adds a tap to the bridge and returns its name.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn add_tap(&self) -> Result<String> {
        let tap = format!("tap{}", self.taps.fetch_add(1, Ordering::Relaxed));
        self.ip(&format!(
            "tuntap add {tap} mode tap\nlink set {tap} master br0\nlink set {tap} up\n"
        ))?;
        self.filter(&tap)?;
        Ok(tap)
    }

    /// What a switch does that filters multicast, at one of its ports.
    fn filter(&self, port: &str) -> Result<()> {
        match self.spec.no_multicast {
            true => self.ip(&format!(
                "link set {port} type bridge_slave mcast_flood off\n"
            )),
            false => Ok(()),
        }
    }

    /// Makes a port of the bridge as slow as a line of `mbit` Mbit/s, in the direction of who is connected there. The tap
    /// of a machine is such a port, and [`Station::port`].
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn slow_down(&self, port: &str, mbit: u32) -> Result<()> {
        // A packet of QEMU's may have 64 KiB, and none longer than the burst gets through.
        let rate = format!("{mbit}mbit");
        let shape = [
            "tc", "qdisc", "replace", "dev", port, "root", "tbf", "rate", &rate, "burst", "128kb",
            "latency", "200ms",
        ];
        let output = self.run(shape)?;
        ensure!(output.status.success(), "{}", proc::describe(&output));
        Ok(())
    }

    /// The same for what a host itself sends.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn slow_down_uplink(&self, station: &Station, mbit: u32) -> Result<()> {
        let rate = format!("{mbit}mbit");
        let inside = ["netns", "exec", &station.namespace];
        let shape = [
            "tc", "qdisc", "replace", "dev", "eth0", "root", "tbf", "rate", &rate, "burst",
            "128kb", "latency", "200ms",
        ];
        proc::must("ip", inside.into_iter().chain(shape), "")?;
        Ok(())
    }

    /// Gives the host one more address on the LAN, with its prefix length.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn add_address(&self, address: &str) -> Result<()> {
        self.ip(&format!("addr add {address} dev br0\n"))
    }

    /// Adds a silent neighbour: another host on the LAN, with this address and prefix length, that answers
    /// to ARP and nothing else.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn add_neighbour(&self, address: &str) -> Result<()> {
        self.add_station(address, "br0").map(drop)
    }

    /// The host that boot servers run on; it is made when it is first asked for.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn boot_server(&self) -> Result<&Station> {
        if let Some(station) = self.boot_server.get() {
            return Ok(station);
        }
        let station = if self.spec.dhcp == Dhcp::BehindRelay {
            self.add_station(&within(HOST_BEHIND, Station::BOOT_SERVER), "br1")?
        } else {
            self.neighbour(Station::BOOT_SERVER)?
        };
        Ok(self.boot_server.get_or_init(|| station))
    }

    /// Adds another host on the LAN, with the address `10.77.0.last`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn neighbour(&self, last: u8) -> Result<Station> {
        self.add_station(&within(HOST, last), "br0")
    }

    /// Adds a host in the other segment, with the address `10.78.0.last`.
    ///
    /// # Errors
    /// When this LAN has no other segment.
    pub fn elsewhere(&self, last: u8) -> Result<Station> {
        ensure!(self.spec.elsewhere, "this LAN has no other segment");
        self.add_station(&within(HOST_BEHIND, last), "br1")
    }

    /// Adds a host with this address (its prefix length is 24 unless it says another) to a bridge.
    fn add_station(&self, address: &str, bridge: &str) -> Result<Station> {
        let mut stations = self.stations.lock().unwrap_or_else(PoisonError::into_inner);
        let number = stations.len();
        let namespace = format!("{}-{number}", self.name);
        proc::must("ip", ["netns", "add", &namespace], "")?;
        stations.push(namespace.clone());
        self.ip(&format!(
            "link add port{number} type veth peer name eth0 netns {namespace}\n\
             link set port{number} master {bridge}\n\
             link set port{number} up\n"
        ))?;
        let (address, prefix) = address.split_once('/').unwrap_or((address, "24"));
        let port = format!("port{number}");
        if bridge == "br0" {
            self.filter(&port)?;
        }
        let mut batch = format!(
            "link set lo up\n\
             addr add {address}/{prefix} dev eth0\n\
             link set eth0 up\n"
        );
        if bridge == "br0" && self.spec.elsewhere {
            batch.push_str(&format!("route add default via {HOST}\n"));
        }
        if bridge == "br0"
            && let Some((_, last)) = address.rsplit_once('.')
        {
            let (net, _) = HOST_V6.split_at(HOST_V6.len() - 1);
            batch.push_str(&format!("addr add {net}{last}/64 dev eth0 nodad\n"));
        }
        if bridge == "br1" {
            batch.push_str(&format!("route add default via {HOST_BEHIND}\n"));
        }
        proc::must("ip", ["-n", &namespace, "-batch", "-"], &batch)?;
        Ok(Station {
            namespace,
            address: address.to_owned(),
            port,
        })
    }

    /// The arguments that run a program in this namespace: for `Command`, behind `ip`.
    #[must_use]
    pub fn enter(&self) -> [&str; 3] {
        ["netns", "exec", &self.name]
    }

    /// Runs a command on the host's side of this LAN.
    ///
    /// # Errors
    /// When it cannot be started or hangs. A failing exit status is the caller's to judge.
    pub fn run<S: AsRef<OsStr>>(&self, command: impl IntoIterator<Item = S>) -> Result<Output> {
        let mut args: Vec<_> = self.enter().map(OsStr::new).map(OsStr::to_owned).to_vec();
        args.extend(command.into_iter().map(|arg| arg.as_ref().to_owned()));
        proc::output("ip", args, COMMAND_LIMIT)
    }

    /// What `curl` gets from `url`.
    ///
    /// # Errors
    /// When there is no answer, or one that is not a success.
    pub fn get(&self, url: &str) -> Result<Vec<u8>> {
        let output = self.run(["curl", "-gfsS", "--max-time", "50", url])?;
        ensure!(
            output.status.success(),
            "curl {url}: {}",
            proc::describe(&output)
        );
        Ok(output.stdout)
    }

    /// Asks for `url` until it answers with success; for machines that cannot say that they serve.
    ///
    /// # Errors
    /// When it does not answer within `limit`.
    pub fn get_eventually(&self, url: &str, limit: Duration) -> Result<Vec<u8>> {
        let limit_s = limit.as_secs().to_string();
        let output = self.run([
            "curl",
            "-gfsS",
            "--retry",
            "1000",
            "--retry-delay",
            "1",
            "--retry-all-errors",
            "--connect-timeout",
            "2",
            "--retry-max-time",
            &limit_s,
            url,
        ])?;
        ensure!(
            output.status.success(),
            "curl {url} for {limit_s} s: {}",
            proc::describe(&output)
        );
        Ok(output.stdout)
    }

    /// Whether anything answers on `port` of `host`.
    ///
    /// # Errors
    /// When `curl` cannot be run.
    pub fn answers(&self, host: &str, port: u16) -> Result<bool> {
        let url = format!("http://{host}:{port}/");
        let output = self.run(["curl", "-gsS", "-o", "/dev/null", "--max-time", "3", &url])?;
        Ok(output.status.success())
    }

    /// Runs `make` on a thread inside this namespace, so that a socket it makes belongs to the LAN.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or what `make` says.
    pub fn inside<T: Send>(&self, make: impl FnOnce() -> io::Result<T> + Send) -> Result<T> {
        let namespace = File::open(Path::new(NAMESPACES).join(&self.name))?;
        let entered = || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            make()
        };
        let made = thread::scope(|scope| scope.spawn(entered).join());
        made.map_err(|_| anyhow!("the thread inside {} panicked", self.name))?
            .with_context(|| format!("inside {}", self.name))
    }

    /// Kills every process in the LAN: machines, servers and commands. What waits for them then fails.
    pub fn kill_all(&self) {
        kill_inside(&self.name);
    }

    fn ip(&self, batch: &str) -> Result<()> {
        proc::must("ip", ["-n", &self.name, "-batch", "-"], batch)?;
        Ok(())
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        self.kill_all();
        for service in &self.services {
            service.reap();
        }
        let stations = self.stations.lock().unwrap_or_else(PoisonError::into_inner);
        for name in stations.iter().chain([&self.name]) {
            if let Err(error) = proc::must("ip", ["netns", "delete", name], "") {
                eprintln!("warning: network namespace {name} stays: {error:#}");
            }
        }
    }
}

/// The hardware address of network card `number` of a LAN (1 to 20).
#[must_use]
pub fn mac(number: u8) -> String {
    format!("52:54:00:77:00:{number:02x}")
}

/// The address the DHCP server keeps for [`mac`]`(number)`.
#[must_use]
pub fn address(number: u8) -> String {
    format!("10.77.0.{}", 10 + number)
}

/// The address in the network of `one` that ends in `last`.
fn within(one: &str, last: u8) -> String {
    let (net, _) = one.rsplit_once('.').unwrap_or_default();
    format!("{net}.{last}")
}

/// Whether this machine can make a LAN: says what is missing otherwise.
///
/// # Errors
/// The first thing that is missing.
pub fn possible() -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "needs root (network namespaces and taps)"
    );
    ensure!(
        Path::new("/dev/net/tun").exists(),
        "/dev/net/tun does not exist"
    );
    let name = format!("phase-{}-probe", std::process::id());
    proc::must("ip", ["netns", "add", &name], "").context("network namespaces are not allowed")?;
    let tap = proc::must(
        "ip",
        ["-n", &name, "tuntap", "add", "tap0", "mode", "tap"],
        "",
    );
    proc::must("ip", ["netns", "delete", &name], "")?;
    if let Err(error) = tap {
        bail!("taps are not allowed: {error:#}");
    }
    Ok(())
}

/// Removes LANs of test runs that are dead: killed ones cannot clean up after themselves.
fn remove_leftovers() {
    let Ok(entries) = std::fs::read_dir(NAMESPACES) else {
        return;
    };
    for name in entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
    {
        let owner = name
            .strip_prefix("phase-")
            .and_then(|rest| rest.split('-').next());
        let Some(owner) = owner.and_then(|pid| pid.parse::<u32>().ok()) else {
            continue;
        };
        if !Path::new(&format!("/proc/{owner}")).exists() {
            kill_inside(&name);
            // Another run may be removing the same leftover: whoever comes second has nothing to do.
            let _ = proc::must("ip", ["netns", "delete", &name], "");
        }
    }
}

/// Kills every process in a namespace but this one, and in those of its stations.
pub(crate) fn kill_inside(namespace: &str) {
    let stations = std::fs::read_dir(NAMESPACES)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| {
            let rest = name.strip_prefix(namespace);
            rest.is_some_and(|rest| rest.starts_with('-'))
        });
    for name in stations.chain([namespace.to_owned()]) {
        let Ok(pids) = proc::must("ip", ["netns", "pids", &name], "") else {
            continue;
        };
        let pids = pids
            .lines()
            .filter_map(|line| line.trim().parse::<i32>().ok())
            .filter_map(Pid::from_raw);
        for pid in pids.filter(|pid| *pid != rustix::process::getpid()) {
            // It may have ended by itself in between.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}
