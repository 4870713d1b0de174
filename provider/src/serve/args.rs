//! The arguments of `plasmd serve`. What they mean for the parts is decided where the parts are put together.

use std::net::IpAddr;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use boot_manifest::{Arch, Channel};

use crate::config::{InForce, Source};
use crate::dht::args::DhtArgs;
use crate::fetch_cmd::flags;
use crate::http::limits::{CONNECTIONS_LIMIT, CONNECTIONS_MAX, DRAIN_MAX};
use crate::listen::args::BootArgs;
use crate::serve::access_log;
use crate::serve::limits::{DRAIN_SECONDS_LIMIT, VALID_DAYS};
use crate::serve::sandbox::Mode;
use crate::{log, memory};

/// The port for HTTPS when a certificate is given and no port.
const TLS_PORT: u16 = 8443;

/// Where state is kept unless somebody says otherwise.
const STATE_DIR: &str = "/var/lib/plasm";

/// Where init says what it does about the image of the machine.
const UPGRADE_STATUS: &str = "/run/phase/upgrade.json";

/// The kernel command line of manifests signed here, unless another is given. Without `panic=` a failed boot would
/// stand still for ever.
pub(crate) const CMDLINE: &str = "console=tty0 console=ttyS0,115200 panic=10";

/// Serve DIR/<channel>/<arch>/{vmlinuz,initramfs.img,rootfs.squashfs} and their manifest, and boot machines from them.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The artifacts directory
    #[arg(
        short,
        long,
        value_name = "DIR",
        default_value = "/var/lib/plasm/artifacts"
    )]
    pub(super) artifacts: PathBuf,
    /// The channel that /manifest.json is about
    #[arg(short, long, default_value = "stable")]
    pub(super) channel: Channel,
    /// The architecture that /manifest.json is about (amd64 and arm64 are understood)
    #[arg(short = 'A', long, default_value_t = Arch::host())]
    pub(super) arch: Arch,
    /// The port to listen on; 0 takes a free one
    #[arg(short, long, default_value_t = 8080)]
    pub(super) port: u16,
    /// An address to listen on (may be repeated); :: is all of IPv6 and IPv4
    #[arg(short, long, value_name = "ADDR", default_value = "0.0.0.0")]
    pub(super) bind: Vec<IpAddr>,
    #[command(flatten)]
    pub(super) dht: DhtArgs,
    /// Do not announce this provider on the local network
    #[arg(long)]
    pub(super) no_mdns: bool,
    /// Sign what lies in the artifacts directory with this private key
    #[arg(long, value_name = "FILE")]
    pub(super) key: Option<PathBuf>,
    /// Say which manifest is the newest, signed with this private key; repeat for several
    #[arg(long = "freshness-key", value_name = "FILE")]
    pub(super) freshness_keys: Vec<PathBuf>,
    #[command(flatten)]
    pub(super) signing: SigningArgs,
    /// Whose manifests to believe in /health: a trust root or a public key
    #[arg(long, value_name = "FILE")]
    pub(super) trust_root: Option<PathBuf>,
    #[command(flatten)]
    pub(super) tls: TlsArgs,
    #[command(flatten)]
    pub(super) boot: BootArgs,
    #[command(flatten)]
    pub(super) confine: ConfineArgs,
    #[command(flatten)]
    pub(super) connections: ConnectionArgs,
    #[command(flatten)]
    pub(super) sending: SendingArgs,
    #[command(flatten)]
    pub(super) ending: EndingArgs,
    #[command(flatten)]
    pub(super) watching: WatchingArgs,
    /// Run as a role of the appliance: init is told what happens
    #[arg(long, hide = true)]
    pub(super) appliance: bool,
    /// Where init says what it does about the image [default with --appliance: /run/phase/upgrade.json]
    #[arg(long, value_name = "FILE", hide = true)]
    pub(super) upgrade_status: Option<PathBuf>,
    /// The configuration file [default: /etc/phase/plasmd.toml, when it is there]
    #[arg(short = 'C', long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Every setting and where it comes from.
    #[arg(skip)]
    pub(crate) in_force: InForce,
}

impl Args {
    /// Where init says what it does about the image; nothing where there is no init of ours.
    pub(super) fn upgrade_status(&self) -> Option<PathBuf> {
        let usual = || self.appliance.then(|| PathBuf::from(UPGRADE_STATUS));
        self.upgrade_status.clone().or_else(usual)
    }
}

/// HTTPS beside HTTP.
#[derive(clap::Args)]
pub(super) struct TlsArgs {
    /// Also serve HTTPS on this port; 0 takes a free one [default with --tls-cert: 8443]
    #[arg(long, value_name = "PORT")]
    pub(super) tls_port: Option<u16>,
    /// The certificate for HTTPS with those of its issuers (PEM) [default: one that is made and kept]
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(super) tls_cert: Option<PathBuf>,
    /// The private key of the certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(super) tls_key: Option<PathBuf>,
    /// Where leases, what is known of machines, a certificate that is made here, and what belongs to the DHT are kept [default: $STATE_DIRECTORY, or /var/lib/plasm]
    #[arg(long, value_name = "DIR")]
    pub(super) state_dir: Option<PathBuf>,
}

impl TlsArgs {
    /// The port for HTTPS, when HTTPS is wanted.
    pub(super) fn port(&self) -> Option<u16> {
        self.tls_port
            .or_else(|| self.tls_cert.as_ref().map(|_| TLS_PORT))
    }

    /// Whether somebody said where.
    pub(super) fn names_state(&self) -> bool {
        self.state_dir.is_some() || std::env::var_os("STATE_DIRECTORY").is_some()
    }

    /// Where state is kept.
    pub(super) fn state_dir(&self) -> PathBuf {
        state_dir(self.state_dir.as_deref())
    }
}

/// The directory that was named, or the one of the service manager, or the usual one.
pub(crate) fn state_dir(named: Option<&Path>) -> PathBuf {
    let given = || {
        // Of several, the first.
        let list = std::env::var("STATE_DIRECTORY").ok()?;
        let first = list.split(':').next()?;
        (!first.is_empty()).then(|| PathBuf::from(first))
    };
    named
        .map(Path::to_owned)
        .or_else(given)
        .unwrap_or_else(|| PathBuf::from(STATE_DIR))
}

/// What is given up before the first request.
#[derive(clap::Args)]
pub(super) struct ConfineArgs {
    /// Become this user once the ports are open and the keys are read
    #[arg(long, value_name = "NAME")]
    pub(super) user: Option<String>,
    /// Confine the provider to the files and system calls of serving
    #[arg(long, value_name = "MODE", value_enum, default_value_t = Mode::Auto)]
    pub(super) sandbox: Mode,
}

/// How many clients are served at once.
#[derive(clap::Args)]
pub(super) struct ConnectionArgs {
    /// Connections at once; fewer when the limit on open files does not allow as many
    #[arg(long, value_name = "N", default_value_t = CONNECTIONS_MAX as u64,
          value_parser = clap::value_parser!(u64).range(1..=CONNECTIONS_LIMIT))]
    pub(super) connections_max: u64,
    /// Connections of one client address (IPv6: of one /64) [default: 4096, and any number for this machine's own]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=CONNECTIONS_LIMIT))]
    pub(super) connections_per_address: Option<u64>,
}

/// How much is sent.
#[derive(clap::Args)]
pub(super) struct SendingArgs {
    /// Bytes of artifacts per second at most over HTTP, all clients together: 500K, 10M, 1G
    #[arg(long, value_name = "RATE", value_parser = flags::rate)]
    pub(super) limit_rate: Option<NonZeroU64>,
    /// Send no artifacts while less memory than this is available; 0 sends always
    #[arg(long, value_name = "MIB", default_value_t = memory::RESERVE_MIB,
          value_parser = clap::value_parser!(u64).range(0..=memory::RESERVE_MIB_MAX))]
    pub(super) memory_reserve: u64,
}

/// How serving ends.
#[derive(clap::Args)]
pub(super) struct EndingArgs {
    /// Seconds that running downloads have to end after SIGTERM
    #[arg(long, value_name = "SECONDS", default_value_t = DRAIN_MAX.as_secs(),
          value_parser = clap::value_parser!(u64).range(0..=DRAIN_SECONDS_LIMIT))]
    pub(super) drain_max: u64,
}

/// What an operator sees of it.
#[derive(clap::Args)]
pub(super) struct WatchingArgs {
    /// What is logged: error, warn, info, debug, trace, off, or a list like info,plasmd::serve=debug
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = log_filter)]
    pub(super) log_level: String,
    /// Write a line for each answer to this file, or to stdout (-); SIGHUP opens it again
    #[arg(long, value_name = "FILE")]
    pub(super) access_log: Option<PathBuf>,
    /// How such a line looks
    #[arg(
        long,
        value_name = "FORMAT",
        value_enum,
        default_value = "combined",
        requires = "access_log"
    )]
    pub(super) access_log_format: access_log::Format,
    /// Show in /status who fetched what to this machine only
    #[arg(long)]
    pub(super) hide_clients: bool,
    /// The socket for `plasmd reload`, `log-level` and `clients`, or off [default: /run/plasmd/control.sock, if possible]
    #[arg(long, value_name = "PATH")]
    pub(super) control_socket: Option<PathBuf>,
}

fn log_filter(text: &str) -> Result<String, String> {
    log::parse(text).map(|_| text.to_owned())
}

impl Args {
    /// What to log before anything else is done.
    pub(crate) fn log_wanted(&self) -> log::Wanted {
        // `RUST_LOG` is older than this setting, and as strong as the file.
        let is_firm = self.in_force.settings.iter().any(|setting| {
            setting.key == "log_level"
                && matches!(setting.source, Source::Flag | Source::Environment(_))
        });
        log::Wanted {
            filter: self.watching.log_level.clone(),
            is_firm,
        }
    }
}

/// What a manifest signed here says besides the files.
#[derive(clap::Args)]
pub(super) struct SigningArgs {
    /// Sequence number of the first manifest [default: the time of signing]
    #[arg(long, value_name = "N", requires = "key")]
    pub(super) sequence: Option<u64>,
    /// Version for people [default: the time of signing]
    #[arg(long, value_name = "TEXT", requires = "key")]
    pub(super) release: Option<String>,
    /// Security version: older ones can be refused by clients
    #[arg(long, value_name = "N", default_value_t = 1, requires = "key")]
    pub(super) security_version: u64,
    /// Days until a manifest expires
    #[arg(long, value_name = "N", default_value_t = VALID_DAYS, requires = "key",
          value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub(super) valid_days: u32,
    /// Kernel command line
    #[arg(long, value_name = "TEXT", default_value = CMDLINE, requires = "key")]
    pub(super) cmdline: String,
}
