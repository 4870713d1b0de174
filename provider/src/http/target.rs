//! From the path of a request to what is asked for. The names in it are read by [`http_semantics::path`].

use boot_manifest::{Arch, Channel, FileName};
use http_semantics::path::{self, BadPath};

/// Names in the longest route.
const NAMES_MAX: usize = 3;

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// `/`
    Root,
    /// `/health`
    Health,
    /// `/status`
    Status,
    /// `/metrics`
    Metrics,
    /// `/clients`
    Clients,
    /// `/boot.ipxe`
    BootScript,
    /// `/boot/report`
    Report,
    /// `/have`
    Have,
    /// `/peers`
    Peers,
    /// `/freshness`
    Freshness,
    /// `/upgrade`
    Upgrade,
    /// `/upgrade/orders`
    Orders,
    /// `/upgrade/turn`
    Turn,
    /// `/manifest.json`: that of the channel and architecture this provider is for.
    DefaultManifest,
    /// `/roots.json`: the one beside that manifest.
    DefaultRoots,
    /// `/<channel>/<arch>/manifest.json`
    Manifest(Channel, Arch),
    /// `/<channel>/<arch>/<file>`
    Artifact(ArtifactTarget),
    /// A path that names nothing here.
    Unknown,
    /// A path nobody sends by accident.
    Refused(&'static str),
}

/// One file of one folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ArtifactTarget {
    /// The channel.
    pub(crate) channel: Channel,
    /// The architecture.
    pub(crate) arch: Arch,
    /// The architecture as the client spelt it.
    pub(crate) spelling: String,
    /// The file or artifact name asked for.
    pub(crate) name: FileName,
}

/// Reads the path of a request target (without its query).
pub(crate) fn parse(path: &str) -> Target {
    let read = match path::names(path, NAMES_MAX) {
        Ok(read) if read.goes_on => return Target::Unknown,
        Ok(read) => read,
        Err(BadPath(reason)) => return Target::Refused(reason),
    };
    let names: Vec<&str> = read.names.iter().map(String::as_str).collect();
    match names.as_slice() {
        [] => Target::Root,
        ["health"] => Target::Health,
        ["status"] => Target::Status,
        ["metrics"] => Target::Metrics,
        ["clients"] => Target::Clients,
        ["boot.ipxe"] => Target::BootScript,
        ["boot", "report"] => Target::Report,
        ["have"] => Target::Have,
        ["peers"] => Target::Peers,
        ["freshness"] => Target::Freshness,
        ["upgrade"] => Target::Upgrade,
        ["upgrade", "orders"] => Target::Orders,
        ["upgrade", "turn"] => Target::Turn,
        [artifact_store::ROOTS_FILE] => Target::DefaultRoots,
        ["manifest.json"] => Target::DefaultManifest,
        [channel, spelling, name] => folder_file(channel, spelling, name),
        _ => Target::Unknown,
    }
}

fn folder_file(channel: &str, spelling: &str, name: &str) -> Target {
    let (Ok(channel), Ok(arch)) = (channel.parse(), spelling.parse()) else {
        return Target::Unknown;
    };
    if name == artifact_store::MANIFEST_FILE {
        return Target::Manifest(channel, arch);
    }
    let Ok(name) = name.parse() else {
        return Target::Unknown;
    };
    Target::Artifact(ArtifactTarget {
        channel,
        arch,
        spelling: spelling.to_owned(),
        name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn artifact(channel: &str, spelling: &str, name: &str) -> Target {
        Target::Artifact(ArtifactTarget {
            channel: channel.parse().unwrap(),
            arch: spelling.parse().unwrap(),
            spelling: spelling.to_owned(),
            name: name.parse().unwrap(),
        })
    }

    fn manifest(channel: &str, arch: Arch) -> Target {
        Target::Manifest(channel.parse().unwrap(), arch)
    }

    #[test]
    fn routes() {
        for (path, expected) in [
            ("/", Target::Root),
            ("", Target::Root),
            ("//", Target::Root),
            ("/health", Target::Health),
            ("/status", Target::Status),
            ("/clients", Target::Clients),
            ("/boot.ipxe", Target::BootScript),
            ("/have", Target::Have),
            ("/peers", Target::Peers),
            ("/freshness", Target::Freshness),
            ("/roots.json", Target::DefaultRoots),
            ("/boot/report", Target::Report),
            ("/upgrade", Target::Upgrade),
            ("/upgrade/orders", Target::Orders),
            ("/upgrade/turn", Target::Turn),
            ("/manifest.json", Target::DefaultManifest),
            ("//manifest.json", Target::DefaultManifest),
            (
                "/stable/x86_64/manifest.json",
                manifest("stable", Arch::X86_64),
            ),
            (
                "/stable/amd64/manifest.json",
                manifest("stable", Arch::X86_64),
            ),
            (
                "/stable/arm64/manifest.json",
                manifest("stable", Arch::Aarch64),
            ),
            (
                "/stable/x86_64/vmlinuz",
                artifact("stable", "x86_64", "vmlinuz"),
            ),
            (
                "/stable//amd64///vmlinuz",
                artifact("stable", "amd64", "vmlinuz"),
            ),
            (
                "/stable/x86%5F64/vmlinu%7a",
                artifact("stable", "x86_64", "vmlinuz"),
            ),
        ] {
            assert_eq!(parse(path), expected, "{path:?}");
        }
    }

    #[test]
    fn paths_that_name_nothing() {
        for path in [
            "/healthz",
            "/health/",
            "/stable",
            "/stable/x86_64",
            "/stable/x86_64/",
            "/stable/x86_64/vmlinuz/",
            "/stable/x86_64/a/b",
            "/stable/riscv64/vmlinuz",
            "/Stable/x86_64/vmlinuz",
            "/.git/x86_64/config",
            "/stable/x86_64/.vmlinuz.partial",
            "/stable/x86_64/a b",
            "/stable/x86_64/%c3%a9",
            "*",
        ] {
            assert_eq!(parse(path), Target::Unknown, "{path:?}");
        }
    }

    #[test]
    fn paths_that_are_refused() {
        for path in [
            "/..",
            "/stable/../../etc/passwd",
            "/stable/%2e%2e/x",
            "/stable/x86_64/%2E%2E",
            "/stable/x86_64/..%2fpasswd",
            "/stable/x86_64/a%5cb",
            "/stable/x86_64/a\\b",
            "/stable/x86_64/vmlinuz%00",
            "/stable/x86_64/vmlinuz%0a",
            "/stable/x86_64/%zz",
            "/stable/x86_64/%4",
            "/stable/x86_64/%",
            "/stable/x86_64/%ff",
            "/a/b/c/d/e/..",
            "/./health",
        ] {
            assert!(
                matches!(parse(path), Target::Refused(_)),
                "{path:?}: {:?}",
                parse(path)
            );
        }
    }
}
