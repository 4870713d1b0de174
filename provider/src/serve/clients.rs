//! Who fetched what, and how it ended: the answer to "why did that machine not boot?" from the provider's side.
//!
//! A bounded table of addresses, each with its last few answers; ranges and repetitions of the same thing are one entry that
//! counts. What was quiet for longest makes room. One lock, held for less than a microsecond, and no memory is taken while
//! the same client repeats itself.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::Serialize;

use crate::http::answered::Answered;
use crate::serve::access_log::rfc3339;
use crate::serve::limits::{CLIENTS_KEPT_MAX, FETCHES_KEPT_MAX, REMEMBERED_TEXT_MAX};
use crate::serve::metrics::Reason;

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Ending {
    /// Every byte left.
    Complete,
    /// The client went away, or was cut off.
    Broken,
    /// It had it already.
    NotModified,
    /// Something else was said than what was asked for.
    Refused,
}

impl Ending {
    fn of(answered: &Answered<'_>) -> Self {
        match answered.status {
            304 => Self::NotModified,
            400.. => Self::Refused,
            _ if answered.is_whole() => Self::Complete,
            _ => Self::Broken,
        }
    }
}

/// Answers of one kind, one after the other.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Fetch {
    /// The path that was asked for.
    pub(crate) path: String,
    /// The status of the answer.
    pub(crate) status: u16,
    /// How it ended.
    pub(crate) ending: Ending,
    /// Why it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<&'static str>,
    /// How many of them there were.
    pub(crate) count: u64,
    /// Body bytes that left.
    pub(crate) bytes: u64,
    /// Body bytes that were to leave.
    pub(crate) bytes_promised: u64,
    /// Milliseconds they took together.
    pub(crate) millis: u64,
    /// When the last one ended.
    #[serde(serialize_with = "as_text")]
    pub(crate) at: SystemTime,
    /// Its request id, when it had one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) request_id: Option<String>,
}

/// One client.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Client {
    /// Its address.
    pub(crate) address: IpAddr,
    /// What it calls itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) agent: Option<String>,
    /// Requests answered.
    pub(crate) requests: u64,
    /// Body bytes that left.
    pub(crate) bytes: u64,
    /// When the first one was answered.
    #[serde(serialize_with = "as_text")]
    pub(crate) first: SystemTime,
    /// When the last one was.
    #[serde(serialize_with = "as_text")]
    pub(crate) last: SystemTime,
    /// What it fetched last, oldest first.
    pub(crate) fetches: VecDeque<Fetch>,
}

/// The table.
#[derive(Debug, Default)]
pub(crate) struct Clients(Mutex<HashMap<IpAddr, Client>>);

impl Clients {
    /// Remembers an answer that ended at `now`.
    pub(crate) fn answered(&self, answered: &Answered<'_>, now: SystemTime) {
        let mut clients = self.clients();
        if let Some(client) = clients.get_mut(&answered.client) {
            return client.answered(answered, now);
        }
        if clients.len() >= CLIENTS_KEPT_MAX {
            let quietest = clients.values().min_by_key(|client| client.last);
            if let Some(address) = quietest.map(|client| client.address) {
                clients.remove(&address);
            }
        }
        let mut client = Client::new(answered.client, now);
        client.answered(answered, now);
        clients.insert(answered.client, client);
    }

    /// The clients, the last one first.
    pub(crate) fn newest(&self, count_max: usize) -> Vec<Client> {
        let mut clients: Vec<Client> = self.clients().values().cloned().collect();
        clients.sort_by_key(|client| std::cmp::Reverse(client.last));
        clients.truncate(count_max);
        clients
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<IpAddr, Client>> {
        // Whole at every unlock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Client {
    fn new(address: IpAddr, now: SystemTime) -> Self {
        Self {
            address,
            agent: None,
            requests: 0,
            bytes: 0,
            first: now,
            last: now,
            fetches: VecDeque::new(),
        }
    }

    fn answered(&mut self, answered: &Answered<'_>, now: SystemTime) {
        self.requests += 1;
        self.bytes += answered.sent;
        self.last = now;
        if let Some(agent) = answered.agent {
            let is_same = self.agent.as_deref().map(str::as_bytes) == Some(agent);
            if !is_same {
                self.agent = Some(remembered(agent));
            }
        }
        let (path, ending) = (answered.path(), Ending::of(answered));
        let millis = u64::try_from(answered.took.as_millis()).unwrap_or(u64::MAX);
        let same = self.fetches.iter_mut().rev().find(|fetch| {
            fetch.status == answered.status && fetch.ending == ending && fetch.path == path
        });
        if let Some(fetch) = same {
            fetch.count += 1;
            fetch.bytes += answered.sent;
            fetch.bytes_promised += answered.promised;
            fetch.millis = fetch.millis.saturating_add(millis);
            fetch.at = now;
            if let Some(id) = answered.request_id {
                fetch.request_id = Some(id.id.clone());
            }
            return;
        }
        if self.fetches.len() >= FETCHES_KEPT_MAX {
            self.fetches.pop_front();
        }
        self.fetches.push_back(Fetch {
            path: remembered(path.as_bytes()),
            status: answered.status,
            ending,
            reason: answered
                .request_id
                .and_then(|id| id.refused)
                .map(Reason::label),
            count: 1,
            bytes: answered.sent,
            bytes_promised: answered.promised,
            millis,
            at: now,
            request_id: answered.request_id.map(|id| id.id.clone()),
        });
    }
}

/// What a client said, as text of bounded length.
fn remembered(text: &[u8]) -> String {
    let text = text.get(..REMEMBERED_TEXT_MAX).unwrap_or(text);
    String::from_utf8_lossy(text)
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

fn as_text<S: serde::Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&rfc3339(*time))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use http::Method;

    use super::*;

    fn answered(client: u32, target: &str, status: u16, sent: u64) -> Answered<'_> {
        Answered {
            client: IpAddr::from(client.to_be_bytes()),
            method: &Method::GET,
            target,
            status,
            promised: 10,
            sent,
            took: Duration::from_millis(2),
            agent: Some(b"iPXE\x1b/1.21"),
            referer: None,
            request_id: None,
            is_fast: false,
        }
    }

    fn at(second: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(second)
    }

    #[test]
    fn a_clients_story_can_be_read() {
        let clients = Clients::default();
        clients.answered(&answered(1, "/manifest.json", 200, 10), at(1));
        clients.answered(&answered(1, "/a", 206, 10), at(2));
        clients.answered(&answered(1, "/b", 206, 10), at(2));
        clients.answered(&answered(1, "/a?x=1", 206, 10), at(3));
        clients.answered(&answered(1, "/a", 206, 4), at(4));
        clients.answered(&answered(1, "/none", 404, 10), at(5));
        let story = clients.newest(9);
        assert_eq!(story.len(), 1);
        assert_eq!((story[0].requests, story[0].bytes), (6, 54));
        assert_eq!(story[0].agent.as_deref(), Some("iPXE?/1.21"));
        let fetches: Vec<_> = story[0]
            .fetches
            .iter()
            .map(|one| (one.path.as_str(), one.ending, one.count, one.bytes))
            .collect();
        assert_eq!(
            fetches,
            [
                ("/manifest.json", Ending::Complete, 1, 10),
                ("/a", Ending::Complete, 2, 20),
                ("/b", Ending::Complete, 1, 10),
                ("/a", Ending::Broken, 1, 4),
                ("/none", Ending::Refused, 1, 10),
            ]
        );
        let json = serde_json::to_value(&story).unwrap();
        assert_eq!(json[0]["fetches"][3]["ending"], "broken");
        assert_eq!(json[0]["last"], "1970-01-01T00:00:05.000Z");
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_quietest() {
        let clients = Clients::default();
        let count = u32::try_from(CLIENTS_KEPT_MAX).unwrap();
        for client in 0..count + 5 {
            let path = format!("/{}", "x".repeat(10_000));
            clients.answered(&answered(client, &path, 200, 10), at(u64::from(client)));
        }
        for path in 0..FETCHES_KEPT_MAX * 2 {
            clients.answered(&answered(count, &format!("/{path}"), 200, 10), at(9_999));
        }
        let all = clients.newest(usize::MAX);
        assert_eq!(all.len(), CLIENTS_KEPT_MAX);
        assert_eq!(all[0].address, IpAddr::from(count.to_be_bytes()));
        assert_eq!(all[0].fetches.len(), FETCHES_KEPT_MAX);
        assert!(all.iter().all(|one| one.first >= at(5)));
        let longest = all
            .iter()
            .flat_map(|one| &one.fetches)
            .map(|one| one.path.len());
        assert_eq!(longest.max(), Some(REMEMBERED_TEXT_MAX));
    }
}
