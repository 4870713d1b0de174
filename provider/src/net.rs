//! `plasmd net`: the appliance's network role.
//!
//! Brings up `lo` and every Ethernet interface, gets an IPv4 address for each by DHCP (or takes a link-local one when
//! nobody answers), lets the kernel do IPv6 from router advertisements, writes `resolv.conf`, and tells init what
//! changed. It runs without root but with CAP_NET_ADMIN and CAP_NET_RAW, believes nothing it receives, and starts no
//! thread and no other program.
//!
//! Pure parts, each tested with frames and times as arguments: [`uplink`] (which address now), [`dhcp`], [`claim`]
//! (conflicts), [`lease`] (is it sensible), [`hint`] (who has images), [`link_local`], [`wire`], [`netlink`], [`resume`] (leases over a
//! kexec). Thin shells around them: [`daemon`]
//! (the loop), [`kernel`], [`sys`], [`written`] (files for other roles). Every number is in [`limits`].

mod claim;
mod daemon;
mod dhcp;
#[cfg(test)]
mod fixture;
mod hint;
mod kernel;
mod lease;
mod limits;
mod link_local;
mod netlink;
mod resolv;
mod resume;
mod sys;
mod uplink;
mod wire;
mod written;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::str::FromStr;

use smoltcp::wire::DhcpOption;

use crate::exit::{CommandError, Exit};
use crate::init_link::InitLink;

pub(crate) use sys::termination_signals;

/// DHCP option 12.
const OPTION_HOST_NAME: u8 = 12;

/// DHCP option 60.
const OPTION_VENDOR_CLASS: u8 = 60;

/// What boot servers say, one URL a line: `stage` reads it.
pub(crate) const PROVIDERS_FILE: &str = "/run/phase/net/providers";

/// The flags.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The name to give to DHCP servers
    #[arg(long, value_name = "NAME", value_parser = host_name)]
    hostname: Option<String>,

    /// Use this address on this interface instead of DHCP: IFACE=ADDRESS/PREFIX[,ROUTER]; can be given several times
    #[arg(long = "static", value_name = "SPEC")]
    fixed: Vec<Fixed>,

    /// Ask boot servers for a provider too, and write what they say beside resolv.conf
    #[arg(long)]
    find_provider: bool,

    /// Begin with the leases in this file, which the predecessor of this machine wrote before its kexec
    #[arg(long, value_name = "FILE")]
    resume: Option<PathBuf>,

    /// Where to write resolv.conf, and lease.json for a successor
    #[arg(long, value_name = "DIR", default_value = "/run/phase/net")]
    run_dir: PathBuf,
}

/// One `--static`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fixed {
    interface: String,
    address: Ipv4Addr,
    prefix: u8,
    router: Option<Ipv4Addr>,
}

/// Runs the role until SIGTERM.
pub(crate) fn run(args: Args) -> Result<Exit, CommandError> {
    let init = InitLink::from_env()
        .map_err(|error| CommandError::local(format!("cannot talk to init: {error}")))?;
    let open = |name: &str| {
        written::Written::open(&args.run_dir, name).map_err(|error| {
            CommandError::local(format!("cannot use {}: {error}", args.run_dir.display()))
        })
    };
    let files = daemon::Files {
        resolv: open("resolv.conf")?,
        providers: match args.find_provider {
            true => Some(open("providers")?),
            false => None,
        },
        leases: open("lease.json")?,
    };
    // Without them the network comes up as after any other start.
    let resumed = args.resume.map_or_else(Vec::new, |file| {
        match crate::trust::read(&file, resume::FILE_SIZE_MAX, "file of leases") {
            Ok(bytes) => resume::parse(&bytes, daemon::wall_seconds()),
            Err(error) => {
                tracing::warn!(%error, "no lease is resumed");
                Vec::new()
            }
        }
    });
    let fixed = args.fixed.into_iter().map(Fixed::into_wanted).collect();
    let asks = dhcp::Asks {
        options: dhcp_options(args.hostname, args.find_provider),
        provider: args.find_provider,
    };
    daemon::Daemon::start(init, files, asks, fixed, resumed)
        .and_then(daemon::Daemon::run)
        .map_err(|error| {
            let failed = CommandError::local(format!("cannot run the network: {error}"));
            match error.kind() {
                std::io::ErrorKind::PermissionDenied => failed
                    .hint("this needs the capabilities NET_ADMIN and NET_RAW; init gives them"),
                _ => failed,
            }
        })?;
    Ok(Exit::Done)
}

/// The options of every message we send. They live as long as the process, as the DHCP clients do.
fn dhcp_options(hostname: Option<String>, finds_provider: bool) -> &'static [DhcpOption<'static>] {
    let named = hostname.map(|name| (OPTION_HOST_NAME, name));
    let class = finds_provider.then(|| (OPTION_VENDOR_CLASS, hint::vendor_class()));
    let options = named.into_iter().chain(class);
    let options: Vec<DhcpOption<'static>> = options
        .map(|(kind, text)| DhcpOption {
            kind,
            data: text.leak().as_bytes(),
        })
        .collect();
    options.leak()
}

/// One label of RFC 1123.
fn host_name(text: &str) -> Result<String, String> {
    let fine = (1..=63).contains(&text.len())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    match fine {
        true => Ok(text.to_owned()),
        false => Err("1 to 63 letters, digits and hyphens, no hyphen at either end".to_owned()),
    }
}

impl FromStr for Fixed {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (interface, rest) = text
            .split_once('=')
            .ok_or("expected IFACE=ADDRESS/PREFIX")?;
        let (address, router) = match rest.split_once(',') {
            Some((address, router)) => (address, Some(router)),
            None => (rest, None),
        };
        let (address, prefix) = address
            .split_once('/')
            .ok_or("the address needs a prefix length, such as /24")?;
        let prefix = prefix
            .parse()
            .ok()
            .filter(|prefix| (1..=32).contains(prefix))
            .ok_or("the prefix length is a number from 1 to 32")?;
        let is_host = |address: &Ipv4Addr| {
            !address.is_unspecified()
                && !address.is_loopback()
                && !address.is_multicast()
                && !address.is_broadcast()
        };
        let host = |text: &str| text.parse().ok().filter(is_host);
        Ok(Self {
            interface: interface.to_owned(),
            address: host(address).ok_or("not an IPv4 address of a machine")?,
            prefix,
            router: router
                .map(|router| host(router).ok_or("the router is not an IPv4 address of a machine"))
                .transpose()?,
        })
    }
}

impl Fixed {
    fn into_wanted(self) -> (String, uplink::Wanted) {
        let wanted = uplink::Wanted {
            address: self.address,
            prefix: self.prefix,
            router: self.router,
            until: None,
            source: uplink::Source::Fixed,
            name_servers: Vec::new(),
            domain: None,
        };
        (self.interface, wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_static_address_is_read_whole_or_refused() {
        let fixed: Fixed = "eth0=192.0.2.5/24,192.0.2.1".parse().unwrap();
        assert_eq!(fixed.interface, "eth0");
        assert_eq!(
            (fixed.address, fixed.prefix),
            (Ipv4Addr::new(192, 0, 2, 5), 24)
        );
        assert_eq!(fixed.router, Some(Ipv4Addr::new(192, 0, 2, 1)));
        for bad in [
            "eth0",
            "eth0=192.0.2.5",
            "eth0=192.0.2.5/33",
            "eth0=192.0.2.5/0",
            "eth0=0.0.0.0/24",
            "eth0=127.0.0.1/8",
            "eth0=192.0.2.5/24,x",
            "eth0=192.0.2.5/24,224.0.0.1",
        ] {
            assert!(bad.parse::<Fixed>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_host_name_is_one_label() {
        assert!(host_name("phase-00a1").is_ok());
        for bad in ["", "-a", "a-", "a.b", "a b", "a\n", &"a".repeat(64)] {
            assert!(host_name(bad).is_err(), "{bad:?}");
        }
    }
}
