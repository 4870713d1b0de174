//! What the image brings to judge by: its trust root, its version floor, the time it was built; and the root chain that
//! leads on from there, of the image or brought along by the kernel before.

use std::fs::File;
use std::io::Read;

use boot_manifest::{Channel, Expiry, Floor, Timestamp, TrustRoot};
use serde::Deserialize;

use crate::plan::Refusal;
use crate::verify::Policy;
use crate::{limits, root, settings, verify};

/// What the image says about itself.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ImageInfo {
    pub(crate) name: String,
    pub(crate) version: String,
    /// Seconds since the epoch: no clock may stand before it.
    pub(crate) built_at: u64,
    floor: ImageFloor,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ImageFloor {
    security_version: u64,
    sequence: u64,
}

/// What this machine judges by.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) image: ImageInfo,
    /// The root in force: that of the image, or the one its chain leads to.
    pub(crate) trust: TrustRoot,
    /// The chain that leads there; empty when the keys were never replaced.
    pub(crate) roots: Vec<u8>,
    /// A chain that was passed over, and why.
    pub(crate) problem: Option<String>,
    /// The root of the image itself.
    base: TrustRoot,
    floor: Floor,
}

impl Identity {
    /// Reads the files of the image.
    pub(crate) fn read() -> Result<Self, Refusal> {
        let unreadable =
            |path: &str, error: String| Refusal::new("no-trust-root", format!("{path}: {error}"));
        let read = |path: &str| {
            read_up_to(path, limits::IMAGE_INFO_MAX)
                .map_err(|error| unreadable(path, error.to_string()))
        };
        let base = TrustRoot::parse(&read(root::TRUST_ROOT)?)
            .map_err(|error| unreadable(root::TRUST_ROOT, error.to_string()))?;
        let image = serde_json::from_slice(&read(root::IMAGE_INFO)?)
            .map_err(|error| unreadable(root::IMAGE_INFO, error.to_string()))?;
        let chains = [root::ROOTS_BROUGHT, root::ROOTS].map(|path| {
            let chain = read_up_to(path, limits::ROOTS_MAX);
            (path, chain.unwrap_or_default())
        });
        Ok(Self::new(image, base, chains))
    }

    /// The chain that leads furthest counts, the first of several. A bad one is passed over: what the manifest needs is
    /// checked with the manifest.
    fn new(image: ImageInfo, base: TrustRoot, chains: [(&str, Vec<u8>); 2]) -> Self {
        let mut identity = Self {
            floor: Floor {
                security_version: image.floor.security_version,
                sequence: image.floor.sequence,
            },
            image,
            trust: base.clone(),
            roots: Vec::new(),
            problem: None,
            base,
        };
        for (path, roots) in chains {
            match verify::newest_root(&roots, &identity.base) {
                Ok(root) if roots.is_empty() => drop(root),
                Ok(root)
                    if identity.roots.is_empty()
                        || root.generation() > identity.trust.generation() =>
                {
                    identity.trust = root;
                    identity.roots = roots;
                }
                Ok(_) => {}
                Err(Refusal { code, reason }) => {
                    identity.problem = Some(format!("{path} is not used: {code}: {reason}"));
                }
            }
        }
        identity
    }

    /// That of an image with this description and this root.
    #[cfg(test)]
    pub(crate) fn for_tests(info: &str, root: TrustRoot) -> Self {
        let info = serde_json::from_str(info).unwrap();
        Self::new(info, root, [("brought", Vec::new()), ("own", Vec::new())])
    }

    /// The identity with which an offer is judged that came with this chain: from the root in force, so that replaced keys
    /// stay replaced. Its `roots` are what a successor needs.
    pub(crate) fn after(&self, roots: &[u8]) -> Result<Self, Refusal> {
        let mut identity = self.led_from(&self.trust, roots)?;
        if identity.trust.generation() == self.trust.generation() {
            // A source that is behind, or has no chain: the own one leads there.
            identity.roots.clone_from(&self.roots);
        }
        Ok(identity)
    }

    /// The identity with which an image is judged that lies on a disk of this machine with this chain beside it: from the
    /// root of the image that runs, because it may be older than the root in force.
    pub(crate) fn beside(&self, roots: &[u8]) -> Result<Self, Refusal> {
        self.led_from(&self.base, roots)
    }

    fn led_from(&self, start: &TrustRoot, roots: &[u8]) -> Result<Self, Refusal> {
        let trust = verify::newest_root(roots, start)?;
        // The floor of the image counts in the generation of the image.
        let floor = if trust.generation() == self.trust.generation() {
            self.floor
        } else {
            Floor::default()
        };
        Ok(Self {
            trust,
            roots: roots.to_vec(),
            floor,
            ..self.clone()
        })
    }

    /// How an image is judged that ran here already: its signatures count, its age does not.
    pub(crate) fn lenient_policy(&self) -> Policy<'_> {
        Policy {
            floor: Floor::default(),
            ..self.policy(None, Expiry::Report)
        }
    }

    /// How a manifest is judged on this machine, now.
    pub(crate) fn policy<'a>(&'a self, channel: Option<&'a Channel>, expiry: Expiry) -> Policy<'a> {
        Policy {
            root: &self.trust,
            now: Timestamp::from_unix(settings::now(self.image.built_at)),
            floor: self.floor,
            channel,
            expiry,
        }
    }
}

/// A small file. One byte more than allowed is left to the parser to refuse.
fn read_up_to(path: &str, size_max: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(size_max + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use boot_manifest::{Role, RoleName, SecretKey};

    use super::*;

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_seed([seed; 32])
    }

    /// The roots of three generations, and the chains to the second and third.
    fn rotated() -> ([TrustRoot; 3], [Vec<u8>; 2]) {
        let with = |root: &TrustRoot, seed| {
            let role = Role::new(1, vec![key(seed).public()]).unwrap();
            root.successor().unwrap().with_role(RoleName::Release, role)
        };
        let first = TrustRoot::single(key(1).public());
        let second = with(&first, 2);
        let third = with(&second, 3);
        let link = |next, seeds: [u8; 2]| {
            let draft = boot_manifest::draft_link(next).unwrap();
            let keys = seeds.map(key);
            boot_manifest::sign_link(&draft, &[&keys[0], &keys[1]]).unwrap()
        };
        let append =
            |chain, link: &[u8]| boot_manifest::append_link(chain, link, &first).unwrap().0;
        let short = append(None, &link(&second, [1, 2]));
        let long = append(Some(&short), &link(&third, [2, 3]));
        ([first, second, third], [short, long])
    }

    fn identity(brought: &[u8], own: &[u8]) -> Identity {
        let info = r#"{"name":"Phase","version":"1","built_at":0,"floor":{"security_version":3,"sequence":9}}"#;
        let ([first, ..], _) = rotated();
        let chains = [("brought", brought.to_vec()), ("own", own.to_vec())];
        Identity::new(serde_json::from_str(info).unwrap(), first, chains)
    }

    #[test]
    fn the_chain_that_leads_furthest_counts() {
        let (roots, [short, long]) = rotated();
        for (brought, own, generation, chain) in [
            (&b""[..], &b""[..], 1, &b""[..]),
            (&short, &long, 3, &long),
            (&long, &short, 3, &long),
            (b"", &short, 2, &short),
            (&short, b"", 2, &short),
        ] {
            let identity = identity(brought, own);
            assert_eq!(identity.trust, roots[generation - 1]);
            assert_eq!(identity.roots, chain);
            assert_eq!(identity.problem, None);
        }
        let half = identity(&long[..long.len() / 2], &short);
        assert_eq!(half.trust, roots[1]);
        assert!(
            half.problem
                .unwrap()
                .starts_with("brought is not used: roots-malformed")
        );
    }

    #[test]
    fn offers_go_on_from_the_root_in_force_and_disks_from_that_of_the_image() {
        let (roots, [short, long]) = rotated();
        let running = identity(&short, b"");
        assert_eq!(running.after(b"").unwrap().trust, roots[1]);
        assert_eq!(running.after(&long).unwrap().trust, roots[2]);
        assert_eq!(running.beside(b"").unwrap().trust, roots[0]);
        assert_eq!(running.beside(&long).unwrap().trust, roots[2]);
        assert!(running.after(b"{}").is_err());
        assert_eq!(
            running.after(b"").unwrap().roots,
            short,
            "the successor needs it too"
        );
        assert_eq!(running.after(&long).unwrap().roots, long);
        let floor = |identity: &Identity| identity.policy(None, Expiry::Refuse).floor;
        assert_eq!(floor(&running).sequence, 9);
        assert_eq!(floor(&running.after(&short).unwrap()).sequence, 9);
        assert_eq!(floor(&running.after(&long).unwrap()), Floor::default());
    }
}
