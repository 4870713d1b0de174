//! The routes of machines that boot: their iPXE script, what they report of themselves, and the page that shows them.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use boot_manifest::unverified_payload;
use http::header::{ALLOW, HOST};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_semantics::accept;
use pxe::ipxe;
use serde_json::{Value, json};

use crate::http::body::Body;
use crate::http::{refuse, respond};
use crate::machines::event::{Event, Stage};
use crate::machines::limits::AGO_MAX;
use crate::machines::query::Query;
use crate::machines::script::{Asking, Payload, Script};
use crate::serve::app::App;
use crate::serve::limits::MACHINES_SHOWN_MAX;
use crate::serve::metrics::Reason;
use crate::serve::sockets::Scheme;

/// What a machine says when it failed.
const FAILED: &str = "failed";

/// The ports that a URL need not name.
const HTTP_PORT: u16 = 80;

/// The same of HTTPS.
const HTTPS_PORT: u16 = 443;

/// Without the charset that some old iPXE would take for a part of the type.
const TEXT: &str = "text/plain";

impl App {
    /// `GET /boot.ipxe?mac=...`
    pub(super) async fn boot_script(
        &self,
        client: IpAddr,
        query: Option<&str>,
        headers: &HeaderMap,
    ) -> Response<Body> {
        let Some(base) = self.base(headers) else {
            let line = "the Host field names no server that a machine could be sent to";
            let answer = refuse::text(StatusCode::BAD_REQUEST, line);
            return self.refuse(Reason::BadHost, answer);
        };
        let asking = match Asking::read(query.unwrap_or_default(), &base) {
            Ok(Ok(asking)) => asking,
            Ok(Err(script)) => return respond::page(TEXT, script),
            Err(problem) => {
                let answer = refuse::text(StatusCode::BAD_REQUEST, &problem);
                return self.refuse(Reason::BadTarget, answer);
            }
        };
        let choice = match self.machines.script(asking, client, &base) {
            Script::Text(script) => return respond::page(TEXT, script),
            Script::Boot(choice) => choice,
        };
        let mut firsts = Vec::with_capacity(choice.payloads.len());
        for payload in &choice.payloads {
            firsts.push(self.first_arguments(payload).await);
        }
        match choice.text(&firsts) {
            Ok(script) => respond::page(TEXT, script),
            Err(error) => {
                tracing::error!("kernel arguments: {error}");
                respond::page(
                    TEXT,
                    ipxe::leave("the arguments of this kernel cannot be told to iPXE"),
                )
            }
        }
    }

    /// The arguments that a payload brings along.
    async fn first_arguments(&self, payload: &Payload) -> String {
        if let Some(own) = &payload.own_cmdline {
            return own.clone();
        }
        // Boxed: it may have to be made.
        match Box::pin(self.catalog.manifest(&payload.channel, payload.arch)).await {
            Ok(manifest) => unverified_payload(&manifest.bytes)
                .map(|payload| payload.cmdline)
                .unwrap_or_default(),
            // A folder of somebody else's has none.
            Err(refusal) => {
                tracing::debug!(%refusal, "no arguments of a manifest");
                String::new()
            }
        }
    }

    /// `POST /boot/report?mac=...&stage=...`
    pub(super) fn boot_report(&self, client: IpAddr, query: Option<&str>) -> Response<Body> {
        match self.note_report(client, query.unwrap_or_default()) {
            Ok(()) => {
                let mut response = Response::new(Body::Empty);
                *response.status_mut() = StatusCode::NO_CONTENT;
                response
            }
            Err(problem) => {
                let answer = refuse::text(StatusCode::BAD_REQUEST, &problem);
                self.refuse(Reason::BadTarget, answer)
            }
        }
    }

    fn note_report(&self, client: IpAddr, query: &str) -> Result<(), String> {
        let query = Query::parse(query)?;
        let stage = query.get("stage").ok_or("the field stage is missing")?;
        let event = if stage == FAILED {
            Event::Failed(
                query
                    .get("text")
                    .unwrap_or("it does not say why")
                    .to_owned(),
            )
        } else {
            let known = Stage::reported(stage);
            Event::Stage(
                known.ok_or("stage: linux, manifest, fetched, mounted, serving or failed")?,
            )
        };
        match query.get("mac") {
            Some(mac) => {
                let mac = mac.parse().map_err(|error| format!("mac: {error}"))?;
                let now = SystemTime::now();
                let at = now.checked_sub(ago(query.get("ago"))?).unwrap_or(now);
                self.machines.note_at(mac, event, at);
                // Behind what happened earlier: it was heard of just now.
                self.machines.claims(mac, client, now);
            }
            None => self.machines.note_address(client, event),
        }
        Ok(())
    }

    /// The answer to those who read what is to be written.
    pub(super) fn is_posted(&self, what: &str) -> Response<Body> {
        let line = format!("{what}: use POST");
        let mut answer = refuse::text(StatusCode::METHOD_NOT_ALLOWED, &line);
        answer
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("POST"));
        self.refuse(Reason::Method, answer)
    }

    /// `GET /clients`: JSON, or a page for browsers.
    pub(super) fn clients_page(&self, client: IpAddr, headers: &HeaderMap) -> Response<Body> {
        if self.hide_clients && !client.is_loopback() {
            let line = "clients are shown to this machine only (--hide-clients)";
            let answer = refuse::text(StatusCode::FORBIDDEN, line);
            return self.refuse(Reason::Hidden, answer);
        }
        let clients = self.all_clients(MACHINES_SHOWN_MAX);
        if accept::prefers_html(headers) {
            return respond::page("text/html; charset=utf-8", crate::machines::page(&clients));
        }
        respond::json(StatusCode::OK, &clients)
    }

    /// The machines that were heard last, and every address that fetched something.
    pub(super) fn all_clients(&self, machines_max: usize) -> Value {
        let mut clients = json!(self.clients.newest(usize::MAX));
        for client in clients.as_array_mut().into_iter().flatten() {
            let address = client["address"]
                .as_str()
                .and_then(|text| text.parse().ok());
            if let Some(mac) = address.and_then(|address| self.machines.owner(address)) {
                client["mac"] = json!(mac);
            }
        }
        json!({
            "machines": self.machines.shown(machines_max),
            "clients": clients,
            "peers": self.peer_counts(),
            "rules": self.machines.facts(),
        })
    }

    /// What our URLs begin with on the connection of a request: as the client calls us, which is where it reaches us.
    fn base(&self, headers: &HeaderMap) -> Option<String> {
        let host = headers.get(HOST)?.to_str().ok()?;
        let authority: Authority = host.parse().ok()?;
        // It goes into a script.
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
        if authority.host().is_empty() || !host.bytes().all(is_plain) {
            return None;
        }
        let listens = |scheme: Scheme, port: u16| {
            let mut addresses = self.process.addresses(scheme);
            addresses.any(|address| address.port() == port)
        };
        // Without a port it is the usual one, of plain HTTP where both are here.
        let is_tls = match authority.port_u16() {
            Some(port) => listens(Scheme::Https, port),
            None => listens(Scheme::Https, HTTPS_PORT) && !listens(Scheme::Http, HTTP_PORT),
        };
        let scheme = match is_tls {
            true => Scheme::Https,
            false => Scheme::Http,
        };
        Some(format!("{}://{host}", scheme.as_str()))
    }
}

/// How long ago something is said to have happened, in milliseconds. The stages of a successor are told when it serves.
fn ago(text: Option<&str>) -> Result<Duration, &'static str> {
    let Some(text) = text else {
        return Ok(Duration::ZERO);
    };
    let millis = text.parse().map(Duration::from_millis);
    millis
        .ok()
        .filter(|ago| *ago <= AGO_MAX)
        .ok_or("ago: milliseconds since it happened, at most an hour of them")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_milliseconds_of_an_hour() {
        for (text, expected) in [
            (None, Some(0)),
            (Some("0"), Some(0)),
            (Some("1250"), Some(1_250)),
            (Some("3600000"), Some(3_600_000)),
            (Some("3600001"), None),
            (Some("18446744073709551616"), None),
            (Some("-1"), None),
            (Some("x"), None),
        ] {
            let found = ago(text).ok().map(|ago| ago.as_millis());
            assert_eq!(found, expected, "{text:?}");
        }
    }
}
