//! What can happen to a machine, as the parts that see it tell: DHCP, TFTP, HTTP, and the machine itself.

use std::net::{IpAddr, Ipv4Addr};

use serde::Serialize;

/// Where a machine's packet came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Via {
    /// Our address as that machine reaches it.
    pub(crate) server: IpAddr,
    /// The interface it came in at.
    pub(crate) interface: String,
    /// The relay that passed it on.
    pub(crate) relay: Option<IpAddr>,
}

/// What carried a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Carrier {
    /// TFTP.
    Tftp,
    /// HTTP or HTTPS.
    Http,
}

/// How far a boot got. In the order in which machines pass them; some paths leave some out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Stage {
    /// Its first packet was heard.
    Discover,
    /// It was told what to fetch.
    Offer,
    /// The program its firmware starts was sent: a UKI, or iPXE.
    BootFile,
    /// iPXE has its script.
    Script,
    /// The kernel was sent.
    Kernel,
    /// The initial ramdisk was sent.
    Initrd,
    /// Linux runs and says so.
    Linux,
    /// The machine says that it verified its manifest.
    Manifest,
    /// It says that it has its image, and verified it.
    Fetched,
    /// It says that its image is mounted.
    Mounted,
    /// It says that it serves.
    Serving,
}

impl Stage {
    /// Every stage in order.
    pub(crate) const ALL: [Self; 11] = [
        Self::Discover,
        Self::Offer,
        Self::BootFile,
        Self::Script,
        Self::Kernel,
        Self::Initrd,
        Self::Linux,
        Self::Manifest,
        Self::Fetched,
        Self::Mounted,
        Self::Serving,
    ];

    /// As it is written in reports, in JSON and in metrics.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Discover => "discover",
            Self::Offer => "offer",
            Self::BootFile => "boot-file",
            Self::Script => "script",
            Self::Kernel => "kernel",
            Self::Initrd => "initrd",
            Self::Linux => "linux",
            Self::Manifest => "manifest",
            Self::Fetched => "fetched",
            Self::Mounted => "mounted",
            Self::Serving => "serving",
        }
    }

    /// A stage that a machine reports itself. The others are seen from here.
    pub(crate) fn reported(label: &str) -> Option<Self> {
        let own = [
            Self::Linux,
            Self::Manifest,
            Self::Fetched,
            Self::Mounted,
            Self::Serving,
        ];
        own.into_iter().find(|stage| stage.label() == label)
    }
}

/// Something that happened to a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// It was answered on port 67.
    Offered {
        /// The name of the strategy.
        strategy: &'static str,
        /// The file, or the URL, that it was told.
        file: Option<String>,
    },
    /// It was answered on port 4011.
    BinlAnswered {
        /// The name of the strategy.
        strategy: &'static str,
        /// The file, or the URL, that it was told.
        file: Option<String>,
    },
    /// It was not answered, and why.
    NotAnswered(String),
    /// Our lease table gave it this address.
    LeaseGiven(Ipv4Addr),
    /// It was seen to have this address.
    AddressSeen(IpAddr),
    /// It began to fetch a file.
    FileStarted {
        /// As it is served.
        name: String,
        /// What carries it.
        via: Carrier,
    },
    /// Every byte of a file left.
    FileSent {
        /// As it is served.
        name: String,
        /// Its bytes.
        bytes: u64,
        /// What carried it.
        via: Carrier,
    },
    /// It stopped in the middle.
    FileAborted {
        /// As it is served.
        name: String,
        /// Bytes that left.
        bytes: u64,
        /// What carried it.
        via: Carrier,
        /// What is known about the reason.
        why: String,
    },
    /// It asked for something that is not served.
    FileRefused {
        /// As it was asked for.
        name: String,
        /// What would have carried it.
        via: Carrier,
        /// Why not.
        why: String,
    },
    /// Its iPXE got its script.
    ScriptSent,
    /// It says that it got so far.
    Stage(Stage),
    /// It says that it failed.
    Failed(String),
}
