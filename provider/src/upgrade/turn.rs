//! Taking turns: machines of one segment ask each other before one of them restarts, so that they never all do at once.
//!
//! ```text
//! POST /upgrade/turn?id=HEX32&digest=sha256:HEX[&release=true]
//! {"granted":true,"reason":"","holder":null}
//! {"granted":false,"reason":"another machine has the turn","holder":"0123456789abcdef"}
//! ```
//!
//! The `id` is the machine's, before and after its restart. It is no secret, so a turn belongs to an id *at an address*:
//! nobody else gives it back. Others are told the [`Rank`] of an id, which decides between two that ask at the same time:
//! the lower one goes on, the other lets go. A machine asks its own server by the same route, so what it granted to others
//! holds for itself as well.
//!
//! A turn is a courtesy and no lock: whoever is on the wire can take it and keep it, and then upgrades wait, for a bounded
//! time that the caller knows. Pure: time is an argument. Never decides whether there is anything to upgrade to.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use boot_manifest::Digest;
use serde::{Deserialize, Serialize};

/// A turn that is not given back ends after this: a machine that jumps and proves itself needs less, one that died needs
/// no more.
pub(crate) const TURN_TIME: Duration = Duration::from_secs(30 * 60);

/// Longest query that is read: an id, a digest and the words around them have 130 bytes.
pub(crate) const QUESTION_SIZE_MAX: usize = 256;

/// Longest answer that is read.
pub(crate) const ANSWER_SIZE_MAX: usize = 1_024;

/// Hexadecimal digits of an id: 128 bits, so no two machines have the same.
const ID_DIGITS: usize = 32;

/// Hexadecimal digits of a rank: enough that no two machines of a segment have the same.
const RANK_DIGITS: usize = 16;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Id(String);

/// What others know of an [`Id`]; the lower one goes first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Rank(String);

impl Id {
    /// From sixteen bytes that no other machine has.
    pub(crate) fn new(bytes: [u8; ID_DIGITS / 2]) -> Self {
        Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// What others are told of it.
    pub(crate) fn rank(&self) -> Rank {
        let digest = Digest::of(self.0.as_bytes()).to_string();
        let digits = digest.rsplit(':').next().unwrap_or_default();
        Rank(digits.chars().take(RANK_DIGITS).collect())
    }

    fn parse(text: &str) -> Option<Self> {
        is_hex(text, ID_DIGITS).then(|| Self(text.to_owned()))
    }
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Question {
    /// By whom.
    pub(crate) id: Id,
    /// What it wants to start.
    pub(crate) digest: Digest,
    /// It does not need the turn any more.
    pub(crate) release: bool,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// Whether the asker may restart, as far as this machine is concerned.
    pub(crate) granted: bool,
    /// Why not, for people.
    pub(crate) reason: String,
    /// Who has the turn, when that is why.
    #[serde(default)]
    pub(crate) holder: Option<Rank>,
}

/// What is wrong with a question or an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FormatError {
    /// More than any honest one has.
    #[error("it has {found} bytes; {limit} are allowed")]
    TooLong {
        /// Its length.
        found: usize,
        /// The longest that is read.
        limit: usize,
    },
    /// Not of this form.
    #[error("it is not of this form: {0}")]
    Malformed(&'static str),
}

impl Question {
    /// Reads the query of a request, without the question mark. Parameters that mean nothing here are passed over; one
    /// that occurs twice is an error.
    pub(crate) fn parse(query: &str) -> Result<Self, FormatError> {
        within(query.len(), QUESTION_SIZE_MAX)?;
        let (mut id, mut digest, mut release) = (None, None, None);
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let is_new = match name {
                "id" => {
                    let wrong = FormatError::Malformed("id is 32 hexadecimal digits");
                    id.replace(Id::parse(value).ok_or(wrong)?).is_none()
                }
                "digest" => {
                    // A colon may be written as it is or encoded.
                    let value = value.replace("%3A", ":").replace("%3a", ":");
                    let wrong = |_| FormatError::Malformed("digest is sha256:HEX");
                    let value: Digest = value.parse().map_err(wrong)?;
                    digest.replace(value).is_none()
                }
                "release" => {
                    let wrong = |_| FormatError::Malformed("release is true or false");
                    let value: bool = value.parse().map_err(wrong)?;
                    release.replace(value).is_none()
                }
                _ => true,
            };
            if !is_new {
                return Err(FormatError::Malformed("a parameter occurs twice"));
            }
        }
        Ok(Self {
            id: id.ok_or(FormatError::Malformed("id=HEX is missing"))?,
            digest: digest.ok_or(FormatError::Malformed("digest=sha256:HEX is missing"))?,
            release: release.unwrap_or(false),
        })
    }
}

/// The query, without the question mark.
impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "id={}&digest={}", self.id.0, self.digest)?;
        if self.release {
            f.write_str("&release=true")?;
        }
        Ok(())
    }
}

impl Answer {
    /// The answer as text.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("text and a flag are JSON")
    }

    /// Reads an answer. A rank that is none is left out: it decides nothing then.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        within(bytes.len(), ANSWER_SIZE_MAX)?;
        let wrong = |_| FormatError::Malformed("it is no answer of a turn");
        let mut answer: Self = serde_json::from_slice(bytes).map_err(wrong)?;
        answer.holder = answer
            .holder
            .filter(|holder| is_hex(&holder.0, RANK_DIGITS));
        Ok(answer)
    }

    fn granted() -> Self {
        Self {
            granted: true,
            reason: String::new(),
            holder: None,
        }
    }

    fn refused(reason: &str, holder: Option<Rank>) -> Self {
        Self {
            granted: false,
            reason: reason.to_owned(),
            holder,
        }
    }
}

/// Who has the turn here: at most one machine.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    held: Option<Held>,
}

#[derive(Debug)]
struct Held {
    id: Id,
    /// Where it asks from. A machine that has another address after its restart cannot give its turn back, and time does.
    at: IpAddr,
    until: Instant,
}

impl Turns {
    /// Answers a question from `client`. `on_trial`: this machine proves an image of its own just now, so nobody else may restart.
    /// Who has the turn and asks again keeps it; giving back what one does not have is no error.
    pub(crate) fn ask(
        &mut self,
        question: &Question,
        client: IpAddr,
        on_trial: bool,
        now: Instant,
    ) -> Answer {
        self.held = self.held.take().filter(|held| held.until > now);
        let is_theirs = |held: &Held| held.id == question.id && held.at == client;
        if question.release {
            self.held = self.held.take().filter(|held| !is_theirs(held));
            return Answer::refused("the turn was given back", None);
        }
        if on_trial {
            return Answer::refused("this machine proves a new image just now", None);
        }
        if let Some(held) = self.held.as_ref().filter(|held| !is_theirs(held)) {
            let holder = Some(held.id.rank());
            return Answer::refused("another machine has the turn", holder);
        }
        self.held = Some(Held {
            id: question.id.clone(),
            at: client,
            until: now + TURN_TIME,
        });
        Answer::granted()
    }
}

fn is_hex(text: &str, digits: usize) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.len() == digits && text.bytes().all(is_digit)
}

fn within(found: usize, limit: usize) -> Result<(), FormatError> {
    match found <= limit {
        true => Ok(()),
        false => Err(FormatError::TooLong { found, limit }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 7));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 8));

    fn question(id: u8) -> Question {
        Question {
            id: Id::new([id; 16]),
            digest: Digest::of(b"next"),
            release: false,
        }
    }

    #[test]
    fn questions_and_answers_survive_the_way() {
        for release in [false, true] {
            let question = Question {
                release,
                ..question(7)
            };
            let text = question.to_string();
            assert!(text.len() < QUESTION_SIZE_MAX);
            assert_eq!(Question::parse(&text), Ok(question.clone()));
            let encoded = text.replace(':', "%3A");
            assert_eq!(Question::parse(&format!("{encoded}&later=1")), Ok(question));
        }
        let holder = Some(question(1).id.rank());
        for answer in [Answer::granted(), Answer::refused("x", holder)] {
            assert_eq!(Answer::parse(answer.to_json().as_bytes()), Ok(answer));
        }
    }

    #[test]
    fn other_questions_are_refused() {
        let fine = question(7).to_string();
        for bad in [
            "",
            "id=1",
            &fine.replace("sha256:", "md5:"),
            &fine.replace("07", "0G"),
            &fine.replace("id=07", "id=7"),
            &format!("{fine}&release=maybe"),
            &format!("{fine}&{fine}"),
            &format!("{fine}&x={}", "y".repeat(QUESTION_SIZE_MAX)),
        ] {
            assert!(Question::parse(bad).is_err(), "{bad}");
        }
        for bad in ["", "{}", "[]", r#"{"granted":1,"reason":""}"#] {
            assert!(Answer::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(Answer::parse(&vec![b' '; ANSWER_SIZE_MAX + 1]).is_err());
        let odd = br#"{"granted":false,"reason":"x","holder":"../../etc"}"#;
        assert_eq!(Answer::parse(odd).unwrap().holder, None);
    }

    #[test]
    fn one_machine_has_the_turn_until_it_gives_it_back_or_is_silent() {
        let start = Instant::now();
        let mut turns = Turns::default();
        assert!(turns.ask(&question(1), HOST, false, start).granted);
        let refused = turns.ask(&question(2), HOST, false, start);
        assert_eq!(refused.holder, Some(question(1).id.rank()));
        assert!(!refused.granted);
        // Somebody else gives it back in vain.
        let theirs = Question {
            release: true,
            ..question(2)
        };
        turns.ask(&theirs, HOST, false, start);
        assert!(!turns.ask(&question(2), HOST, false, start).granted);
        // Asking again keeps it for longer.
        let later = start + TURN_TIME / 2;
        assert!(turns.ask(&question(1), HOST, false, later).granted);
        assert!(
            !turns
                .ask(&question(2), HOST, false, start + TURN_TIME)
                .granted
        );
        let over = later + TURN_TIME;
        assert!(turns.ask(&question(2), HOST, false, over).granted);
        turns.ask(&theirs, HOST, false, over);
        assert!(turns.ask(&question(1), HOST, false, over).granted);
    }

    #[test]
    fn a_machine_on_trial_lets_nobody_restart() {
        let now = Instant::now();
        let mut turns = Turns::default();
        assert!(!turns.ask(&question(1), HOST, true, now).granted);
        assert!(turns.ask(&question(1), HOST, false, now).granted);
        assert!(
            !turns.ask(&question(1), HOST, true, now).granted,
            "nor again"
        );
    }

    #[test]
    fn who_knows_an_id_cannot_give_its_turn_back() {
        let now = Instant::now();
        let mut turns = Turns::default();
        assert!(turns.ask(&question(1), HOST, false, now).granted);
        let release = Question {
            release: true,
            ..question(1)
        };
        turns.ask(&release, OTHER, false, now);
        assert!(!turns.ask(&question(2), OTHER, false, now).granted);
        assert!(!turns.ask(&question(1), OTHER, false, now).granted);
        turns.ask(&release, HOST, false, now);
        assert!(turns.ask(&question(2), OTHER, false, now).granted);
    }
}
