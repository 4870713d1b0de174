//! `GET /freshness?nonce=HEX[&channel=C&arch=A]`: which manifest is the newest here, signed over the nonce of whoever asks.
//!
//! For this the provider holds a key that vouches for nothing else: that of the role `freshness` of the trust root. A
//! mirror without one answers 404, which proves nothing. What is signed is what is served at that moment.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use boot_manifest::{
    Arch, Channel, Freshness, Nonce, SecretKey, sign_freshness, unverified_payload,
};
use http::{Response, StatusCode};

use crate::exit::CommandError;
use crate::http::body::Body;
use crate::http::{refuse, respond};
use crate::key;
use crate::serve::app::App;
use crate::serve::metrics::Reason;
use crate::serve::reload::Outcome;

/// The keys, and the files they are read from again.
pub(crate) struct FreshnessKeys {
    files: Vec<PathBuf>,
    keys: RwLock<Arc<[SecretKey]>>,
}

impl FreshnessKeys {
    /// Reads them for the first time.
    pub(super) fn open(files: Vec<PathBuf>) -> Result<Self, CommandError> {
        let keys = RwLock::new(read(&files)?);
        Ok(Self { files, keys })
    }

    /// Reads them again; a bad one leaves the old ones in force.
    pub(super) fn reload(&self) -> Result<Outcome, CommandError> {
        let fresh = read(&self.files)?;
        let ids = |keys: &[SecretKey]| -> Vec<_> {
            keys.iter().map(|key| key.public().key_id()).collect()
        };
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        let is_changed = ids(&keys) != ids(&fresh);
        *keys = fresh;
        Ok(Outcome::of(is_changed))
    }

    fn keys(&self) -> Arc<[SecretKey]> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn read(files: &[PathBuf]) -> Result<Arc<[SecretKey]>, CommandError> {
    files.iter().map(|file| key::load_secret(file)).collect()
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Question {
    nonce: Nonce,
    channel: Option<Channel>,
    arch: Option<Arch>,
}

impl Question {
    /// Each member once, no others. Values are plain: no name here needs an escape.
    fn parse(query: &str) -> Result<Self, String> {
        let (mut nonce, mut channel, mut arch) = (None, None, None);
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let odd = |reason: String| format!("{name}: {reason}");
            let is_second = match name {
                "nonce" => {
                    let value = value.parse::<Nonce>().map_err(|e| odd(e.to_string()))?;
                    nonce.replace(value).is_some()
                }
                "channel" => {
                    let value = value.parse::<Channel>().map_err(|e| odd(e.to_string()))?;
                    channel.replace(value).is_some()
                }
                "arch" => {
                    let value = value.parse::<Arch>().map_err(|e| odd(e.to_string()))?;
                    arch.replace(value).is_some()
                }
                _ => return Err("the query names nonce, channel and arch".to_owned()),
            };
            if is_second {
                return Err(odd("given twice".to_owned()));
            }
        }
        let nonce = nonce.ok_or("nonce=HEX is missing: 32 hex digits that were never used")?;
        Ok(Self {
            nonce,
            channel,
            arch,
        })
    }
}

impl App {
    /// The statement, or why there is none.
    pub(super) async fn freshness(&self, query: Option<&str>) -> Response<Body> {
        let keys = self.freshness.keys();
        if keys.is_empty() {
            let text = "this provider has no key for freshness statements";
            let answer = refuse::text(StatusCode::NOT_FOUND, text);
            return self.refuse(Reason::NotFound, answer);
        }
        let question = match Question::parse(query.unwrap_or_default()) {
            Ok(question) => question,
            Err(problem) => {
                let answer = refuse::text(StatusCode::BAD_REQUEST, &problem);
                return self.refuse(Reason::BadTarget, answer);
            }
        };
        let channel = question.channel.unwrap_or_else(|| self.channel.clone());
        let arch = question.arch.unwrap_or(self.arch);
        // Boxed: making a manifest needs much room, which every request's task would have.
        let manifest = match Box::pin(self.catalog.manifest(&channel, arch)).await {
            Ok(manifest) => manifest,
            Err(refusal) => return self.refused(&refusal),
        };
        let Ok(payload) = unverified_payload(&manifest.bytes) else {
            let text = "the manifest here is not signed: there is nothing to vouch for";
            let answer = refuse::text(StatusCode::NOT_FOUND, text);
            return self.refuse(Reason::NotFound, answer);
        };
        let statement = Freshness {
            nonce: question.nonce,
            channel,
            arch,
            generation: payload.generation,
            sequence: payload.sequence,
            digest: manifest.digest,
        };
        match sign_freshness(&statement, &keys.iter().collect::<Vec<_>>()) {
            Ok(file) => respond::whole(StatusCode::OK, "application/json", file.into()),
            Err(error) => refuse::text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_strict() {
        let nonce = "00112233445566778899aabbccddeeff";
        let good = Question::parse(&format!("nonce={nonce}&channel=beta&arch=arm64")).unwrap();
        assert_eq!(good.nonce.to_string(), nonce);
        assert_eq!(good.channel, Some("beta".parse().unwrap()));
        assert_eq!(good.arch, Some(Arch::Aarch64));
        assert!(Question::parse(&format!("nonce={nonce}")).is_ok());
        for (query, words) in [
            (String::new(), "the query names"),
            ("channel=beta".to_owned(), "nonce=HEX is missing"),
            ("nonce=00".to_owned(), "32 lower-case hex digits"),
            (format!("nonce={nonce}&nonce={nonce}"), "given twice"),
            (format!("nonce={nonce}&more=1"), "the query names"),
            (format!("nonce={nonce}&channel=../.."), "channel:"),
        ] {
            let problem = Question::parse(&query).unwrap_err();
            assert!(problem.contains(words), "{query}: {problem}");
        }
    }

    #[test]
    fn a_bad_key_leaves_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("fresh.key");
        let write = |seed: u8| {
            let pem = SecretKey::from_seed([seed; 32]).to_pem();
            std::fs::write(&file, pem.as_bytes()).unwrap();
        };
        write(1);
        let keys = FreshnessKeys::open(vec![file.clone()]).unwrap();
        assert_eq!(keys.reload().unwrap(), Outcome::Same);
        write(2);
        assert_eq!(keys.reload().unwrap(), Outcome::Changed);
        std::fs::write(&file, "none").unwrap();
        assert!(keys.reload().is_err());
        let id = |seed: u8| SecretKey::from_seed([seed; 32]).public().key_id();
        assert_eq!(keys.keys()[0].public().key_id(), id(2));
    }
}
