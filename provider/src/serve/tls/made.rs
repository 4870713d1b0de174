//! A certificate that this provider makes for itself, signed by an authority that it makes as well, kept below the state
//! directory:
//!
//! | file | holds |
//! | --- | --- |
//! | `tls-v1/authority.pem`, `.key` | the authority; the first is what clients and firmware are told to trust |
//! | `tls-v1/server.pem`, `.key` | the certificate that clients see |
//!
//! Keys are made once, are readable to their owner only, and are never replaced: what was pinned or enrolled stays right. The
//! certificate is made again when the machine has names or addresses that it does not cover. Each file is durable before
//! the next one is made, and a certificate that does not fit its key is made again, so a power cut leaves nothing broken.
//!
//! Validity is as long as the format allows without a second encoding of dates, in both directions: the clocks of firmware
//! are often wrong, and nobody renews what is enrolled in a thousand machines.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber, date_time_ymd,
};
use rustls::server::ParsedCertificate;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::key::files::{create_new, write_atomic};
use crate::serve::limits::NAMES_MAX;
use crate::serve::tls::{Identity, Problem, read_chain, read_pem};

/// Name of the directory, with the version of what is in it.
const FOLDER: &str = "tls-v1";

/// Certificates made here.
#[derive(Debug)]
pub(crate) struct Made {
    folder: PathBuf,
}

impl Made {
    /// Below a state directory. Nothing is made yet.
    pub(crate) fn at(state: &Path) -> Self {
        Self {
            folder: state.join(FOLDER),
        }
    }

    /// The only place that is written to.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file of the certificate.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.folder.join("server.pem")
    }

    /// The file of the authority.
    pub(crate) fn authority_file(&self) -> PathBuf {
        self.folder.join("authority.pem")
    }

    /// The authority itself.
    pub(crate) fn authority(&self) -> Result<CertificateDer<'static>, Problem> {
        let path = self.authority_file();
        let first = read_chain(&path)?.into_iter().next();
        first.ok_or_else(|| Problem::content(&path, "holds no certificate"))
    }

    /// The certificate for `names`: the one that is there, or a new one when that does not cover them all.
    pub(super) fn identity(&self, names: &[String]) -> Result<Identity, Problem> {
        let failed = |error| Problem::file(&self.folder, error);
        std::fs::create_dir_all(&self.folder).map_err(failed)?;
        // Whoever may write the state directory must not choose where root writes.
        if !self.folder.symlink_metadata().map_err(failed)?.is_dir() {
            return Err(Problem::content(
                &self.folder,
                "must be a directory, not a link",
            ));
        }
        let authority_key = self.key("authority.key")?;
        let authority = authority_params(&authority_key);
        let server_key = self.key("server.key")?;
        if !self.is_of(&self.authority_file(), &authority_key) {
            let certificate = authority.self_signed(&authority_key)?;
            self.write(&self.authority_file(), &certificate.pem())?;
        }
        let path = self.certificate();
        let is_good = self.is_of(&path, &server_key)
            && covers(&path, names)
            && is_signed_by(&path, &self.authority()?);
        if !is_good {
            let params = server_params(names)?;
            let issuer = Issuer::from_params(&authority, &authority_key);
            let certificate = params.signed_by(&server_key, &issuer)?;
            self.write(&path, &certificate.pem())?;
            tracing::info!(file = %path.display(), names = names.join(" "), "made a certificate");
        }
        // Firmware that has enrolled the authority needs it in the chain as little as browsers do, but some want it.
        let mut chain = read_chain(&path)?;
        chain.push(self.authority()?);
        let key = PrivateKeyDer::try_from(server_key.serialize_der())
            .map_err(|error| Problem::content(&self.folder, error))?;
        Ok(Identity { chain, key })
    }

    /// The key in a file of that name, made when there is none.
    fn key(&self, name: &str) -> Result<KeyPair, Problem> {
        let path = self.folder.join(name);
        let key = KeyPair::generate()?;
        let pem = zeroize::Zeroizing::new(key.serialize_pem());
        match create_new(&path, 0o600, pem.as_bytes()) {
            Ok(()) => return Ok(key),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            // A directory that may only be read can hold a key all the same.
            Err(_) if path.exists() => {}
            Err(error) => return Err(Problem::file(&path, error)),
        }
        let pem = read_pem(&path)?;
        let pem = std::str::from_utf8(&pem).map_err(|error| Problem::content(&path, error))?;
        KeyPair::from_pem(pem)
            .map_err(|error| Problem::content(&path, format!("is no private key: {error}")))
    }

    /// Whether the file holds a certificate of `key`.
    fn is_of(&self, path: &Path, key: &KeyPair) -> bool {
        let Ok(chain) = read_chain(path) else {
            return false;
        };
        let certificate = chain.first().map(ParsedCertificate::try_from);
        let Some(Ok(certificate)) = certificate else {
            return false;
        };
        use rcgen::PublicKeyData as _;
        certificate.subject_public_key_info().as_ref() == key.subject_public_key_info().as_slice()
    }

    fn write(&self, path: &Path, pem: &str) -> Result<(), Problem> {
        write_atomic(path, pem.as_bytes()).map_err(|error| Problem::file(path, error))
    }
}

fn authority_params(key: &KeyPair) -> CertificateParams {
    use rcgen::PublicKeyData as _;

    // Two authorities of one name would be taken for one another.
    let digest = boot_manifest::Digest::of(&key.subject_public_key_info());
    let digest = digest.hex();
    let name = format!(
        "Phase provider authority {}",
        digest.get(..16).unwrap_or(&digest)
    );
    let mut params = dated(&name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    // Made again from the same key it is the same certificate.
    params.serial_number = Some(SerialNumber::from(1_u64));
    params
}

fn server_params(names: &[String]) -> Result<CertificateParams, Problem> {
    let mut params = dated("Phase provider");
    params.subject_alt_names = names
        .iter()
        .map(|name| match name.parse() {
            Ok(ip) => Ok(SanType::IpAddress(ip)),
            Err(_) => name.as_str().try_into().map(SanType::DnsName),
        })
        .collect::<Result<_, _>>()?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let mut serial = [0; 16];
    rustix::rand::getrandom(&mut serial, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| Problem::file(Path::new("getrandom"), error.into()))?;
    // Numbers of certificates are positive.
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

fn dated(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = date_time_ymd(1970, 1, 1);
    params.not_after = date_time_ymd(2049, 12, 31);
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// Whether the certificate of a file is valid for all of `names`.
fn covers(path: &Path, names: &[String]) -> bool {
    let Ok(chain) = read_chain(path) else {
        return false;
    };
    let Some(Ok(certificate)) = chain.first().map(ParsedCertificate::try_from) else {
        return false;
    };
    names.iter().all(|name| {
        ServerName::try_from(name.as_str())
            .is_ok_and(|name| rustls::client::verify_server_name(&certificate, &name).is_ok())
    })
}

/// Whether the certificate of a file is one that who trusts `authority` believes.
fn is_signed_by(path: &Path, authority: &CertificateDer<'_>) -> bool {
    let mut roots = rustls::RootCertStore::empty();
    if roots.add(authority.clone().into_owned()).is_err() {
        return false;
    }
    let Ok(chain) = read_chain(path) else {
        return false;
    };
    let Some(Ok(certificate)) = chain.first().map(ParsedCertificate::try_from) else {
        return false;
    };
    // Some time between the two dates: the clock of this machine may be wrong as well.
    let now = UnixTime::since_unix_epoch(Duration::from_secs(1 << 30));
    let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
    rustls::client::verify_server_cert_signed_by_trust_anchor(
        &certificate,
        &roots,
        &[],
        now,
        algorithms.all,
    )
    .is_ok()
}

/// What clients may call this machine: its name, with and without `.local`, the one it is announced by, and every address.
pub(super) fn names() -> Vec<String> {
    let host = rustix::system::uname();
    let host = host.nodename().to_string_lossy().to_ascii_lowercase();
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    names_of(&host, interfaces.iter().map(if_addrs::Interface::ip))
}

fn names_of(host: &str, addresses: impl Iterator<Item = IpAddr>) -> Vec<String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    let is_name = !host.is_empty()
        && host.len() <= 63
        && host.chars().all(is_plain)
        && host.parse::<IpAddr>().is_err()
        && ServerName::try_from(host).is_ok();
    let mut names = vec!["localhost".to_owned()];
    if is_name && host != "localhost" {
        names.push(host.to_owned());
        if !host.contains('.') {
            names.push(format!("{host}.local"));
            names.push(format!("plasmd-{host}.local"));
        }
    }
    let own = [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ];
    let mut addresses: Vec<IpAddr> = addresses.chain(own).collect();
    addresses.sort();
    addresses.dedup();
    names.extend(addresses.iter().map(IpAddr::to_string));
    names.truncate(NAMES_MAX);
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprints(made: &Made, names: &[&str]) -> (Vec<u8>, Vec<u8>) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let identity = made.identity(&names).unwrap();
        (identity.chain[0].to_vec(), identity.chain[1].to_vec())
    }

    #[test]
    fn what_was_made_is_kept_until_a_name_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let made = Made::at(folder.path());
        let first = fingerprints(&made, &["localhost", "10.0.0.1", "fe80::1"]);
        assert_eq!(first, fingerprints(&made, &["localhost", "fe80::1"]));
        let second = fingerprints(&made, &["localhost", "10.0.0.2"]);
        assert!(first.0 != second.0, "a new certificate");
        assert_eq!(first.1, second.1, "of the same authority");
        let mode = |name: &str| {
            use std::os::unix::fs::PermissionsExt as _;
            let file = folder.path().join("tls-v1").join(name);
            std::fs::metadata(file).unwrap().permissions().mode() & 0o777
        };
        assert_eq!(mode("server.key"), 0o600);
        assert_eq!(mode("authority.key"), 0o600);
    }

    #[test]
    fn a_power_cut_between_two_files_leaves_nothing_broken() {
        let folder = tempfile::tempdir().unwrap();
        let made = Made::at(folder.path());
        let key = |der: &[u8]| {
            let der = CertificateDer::from(der.to_vec());
            let parsed = ParsedCertificate::try_from(&der).unwrap();
            parsed.subject_public_key_info().to_vec()
        };
        for (name, kept) in [
            ("authority.pem", [true, true]),
            ("server.key", [false, true]),
            ("authority.key", [true, false]),
        ] {
            let before = fingerprints(&made, &["localhost"]);
            std::fs::remove_file(made.folder().join(name)).unwrap();
            let after = fingerprints(&made, &["localhost"]);
            let same = [
                key(&before.0) == key(&after.0),
                key(&before.1) == key(&after.1),
            ];
            assert_eq!(same, kept, "{name}");
            let authority = CertificateDer::from(after.1);
            assert!(is_signed_by(&made.certificate(), &authority), "{name}");
        }
        // A damaged key is never replaced.
        std::fs::write(made.folder().join("server.key"), "no key").unwrap();
        let problem = made.identity(&["localhost".to_owned()]).err().unwrap();
        assert!(
            problem
                .to_string()
                .contains("server.key: is no private key")
        );
    }

    #[test]
    fn names_of_machines() {
        let names = |host: &str, ip: &[&str]| {
            names_of(host, ip.iter().map(|ip| ip.parse().unwrap())).join(" ")
        };
        assert_eq!(
            names("box", &["10.0.0.1", "10.0.0.1"]),
            "localhost box box.local plasmd-box.local 10.0.0.1 127.0.0.1 ::1"
        );
        assert_eq!(names("a.example", &[]), "localhost a.example 127.0.0.1 ::1");
        for odd in ["", "(none)", "b\u{f6}x", "10.1.1.1", "-", &"x".repeat(64)] {
            assert_eq!(names(odd, &[]), "localhost 127.0.0.1 ::1", "{odd:?}");
        }
    }
}
