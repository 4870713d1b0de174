//! The flags of the boot services, which are flags of `plasmd serve`.

use std::net::Ipv4Addr;

use crate::listen::files::ipxe::IpxeArgs;
use crate::listen::range::Range;
use crate::listen::tftp::TftpArgs;
use crate::machines::Only;

/// How machines are answered that ask the network for something to boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum DhcpMode {
    /// Beside the DHCP server of the LAN, which gives the addresses
    Proxy,
    /// On port 4011 only: a DHCP server on this very machine sends clients there
    Binl,
    /// As the DHCP server of the LAN, from --dhcp-range
    Server,
    /// Not at all
    Off,
}

impl DhcpMode {
    /// As the flag has it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::Binl => "binl",
            Self::Server => "server",
            Self::Off => "off",
        }
    }
}

/// Booting the machines of the LAN.
#[derive(clap::Args)]
pub(crate) struct BootArgs {
    /// Which machines are answered: all, or only those that are known
    #[arg(long, value_name = "WHICH", value_enum, default_value_t = Only::All)]
    pub(crate) only: Only,
    /// Answer machines that boot from the network [default: proxy, where it can be had]
    #[arg(long, value_name = "MODE", value_enum)]
    pub(crate) dhcp: Option<DhcpMode>,
    /// Addresses for --dhcp server: FIRST-LAST[/PREFIX][,LEASE], like 10.0.0.100-10.0.0.199/24,12h
    #[arg(long, value_name = "RANGE")]
    pub(crate) dhcp_range: Vec<Range>,
    /// The router that --dhcp server tells clients of
    #[arg(long, value_name = "ADDR", requires = "dhcp_range")]
    pub(crate) dhcp_router: Option<Ipv4Addr>,
    /// A name server that --dhcp server tells clients of (may be repeated)
    #[arg(long, value_name = "ADDR", requires = "dhcp_range")]
    pub(crate) dhcp_dns: Vec<Ipv4Addr>,
    /// Answer on this interface only (may be repeated) [default: all]
    #[arg(long, value_name = "NAME")]
    pub(crate) dhcp_interface: Vec<String>,
    #[command(flatten)]
    pub(crate) ipxe: IpxeArgs,
    #[command(flatten)]
    pub(crate) tftp: TftpArgs,
}
