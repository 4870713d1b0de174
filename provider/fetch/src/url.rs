//! The URLs this crate can fetch: `http[s]://host[:port]/path[?query]`, and references resolved against them (RFC 3986).
//!
//! Written here because the well-known `url` crate brings Unicode domain tables (about 30 packages) for names nobody
//! gives to a provider, and because `http::Uri` neither resolves references nor accepts an IPv6 zone, which a provider
//! on a link-local address needs. Names stay as they are typed, in ASCII; user names and passwords are refused.

use std::fmt;
use std::str::FromStr;

use crate::limits::URL_SIZE_MAX;

/// An absolute `http` or `https` URL. Its path always starts with `/`; a fragment is dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    scheme: Scheme,
    /// A name, an IPv4 address, or an IPv6 address with an optional `%zone`, without brackets.
    host: String,
    port: u16,
    /// Path and query as they go on the wire.
    target: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
}

impl Scheme {
    fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// Why a text is not a URL this crate can fetch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// TLS was asked for where there are no certificates to check it with.
    #[error(
        "{0}: https is not spoken here; use http (the signed manifest, not TLS, protects what is fetched)"
    )]
    Https(String),
    /// Neither http nor https.
    #[error("{0}: not a URL that starts with http:// or https://")]
    Scheme(String),
    /// The part between `//` and the path cannot be used.
    #[error("{url}: {reason}")]
    Authority {
        /// The whole URL.
        url: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A space, control character or non-ASCII character.
    #[error("{0}: has a character that must be percent-encoded in a URL")]
    Character(String),
    /// Longer than any URL this crate fetches.
    #[error("the URL is longer than {URL_SIZE_MAX} characters")]
    TooLong,
}

impl Url {
    /// The name or address to connect to; an IPv6 address comes without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Path and query, as in the first line of a request.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The path without the query.
    pub fn path(&self) -> &str {
        split_query(&self.target).0
    }

    /// The last component of the path; empty when the path ends with a slash.
    pub fn file_name(&self) -> &str {
        self.path().rsplit('/').next().unwrap_or_default()
    }

    /// The value of the `Host` header. The zone of an IPv6 address means nothing to the server and stays away.
    pub fn host_header(&self) -> String {
        let host = self.host.split('%').next().unwrap_or_default();
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.to_owned()
        };
        if self.port == self.scheme.default_port() {
            host
        } else {
            format!("{host}:{}", self.port)
        }
    }

    /// Whether TLS is spoken.
    pub fn is_https(&self) -> bool {
        self.scheme == Scheme::Https
    }

    /// Whether both URLs lead to the same server.
    pub fn same_origin(&self, other: &Self) -> bool {
        (self.scheme, self.port) == (other.scheme, other.port)
            && self.host.eq_ignore_ascii_case(&other.host)
    }

    /// Resolves a reference as RFC 3986, section 5.2, does: another URL, `//host/path`, `/path`, `path` or `?query`.
    pub fn join(&self, reference: &str) -> Result<Self, UrlError> {
        let reference = reference.split('#').next().unwrap_or_default();
        if has_scheme(reference) {
            return reference.parse();
        }
        if reference.starts_with("//") {
            return format!("{}:{reference}", self.scheme.name()).parse();
        }
        check_characters(reference)?;
        let (path, query) = split_query(reference);
        let target = if path.is_empty() {
            let query = query.or(split_query(&self.target).1);
            with_query(self.path().to_owned(), query)
        } else if path.starts_with('/') {
            with_query(remove_dot_segments(path), query)
        } else {
            let folder = self
                .path()
                .rfind('/')
                .map_or("/", |end| &self.path()[..=end]);
            with_query(remove_dot_segments(&format!("{folder}{path}")), query)
        };
        if target.len() > URL_SIZE_MAX {
            return Err(UrlError::TooLong);
        }
        Ok(Self {
            target,
            ..self.clone()
        })
    }
}

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        if text.len() > URL_SIZE_MAX {
            return Err(UrlError::TooLong);
        }
        let scheme = text.split("://").next().unwrap_or_default();
        let (scheme, rest) = match text.get(scheme.len() + 3..) {
            Some(rest) if scheme.eq_ignore_ascii_case("http") => (Scheme::Http, rest),
            Some(rest) if scheme.eq_ignore_ascii_case("https") => (Scheme::Https, rest),
            _ => return Err(UrlError::Scheme(printable(text))),
        };
        check_characters(text)?;
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        let (host, port) = parse_authority(authority).map_err(|reason| UrlError::Authority {
            url: text.to_owned(),
            reason,
        })?;
        let (path, query) = split_query(target);
        let path = if path.is_empty() { "/" } else { path };
        Ok(Self {
            scheme,
            host,
            port: port.unwrap_or(scheme.default_port()),
            target: with_query(remove_dot_segments(path), query),
        })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.scheme.name())?;
        match self.host.split_once('%') {
            Some((address, zone)) => write!(f, "[{address}%25{zone}]")?,
            None if self.host.contains(':') => write!(f, "[{}]", self.host)?,
            None => f.write_str(&self.host)?,
        }
        if self.port != self.scheme.default_port() {
            write!(f, ":{}", self.port)?;
        }
        f.write_str(&self.target)
    }
}

/// Host and port of `host`, `host:port`, `[v6]`, `[v6%25zone]:port`.
fn parse_authority(authority: &str) -> Result<(String, Option<u16>), &'static str> {
    if authority.contains('@') {
        return Err("a user name or password in the URL is not supported");
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (inside, after) = rest.split_once(']').ok_or("the bracket is not closed")?;
            let port = match after.strip_prefix(':') {
                Some(port) => Some(port),
                None if after.is_empty() => None,
                None => return Err("only a port may follow the bracket"),
            };
            (parse_v6(inside)?, port)
        }
        None => match authority.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err("an IPv6 address must stand in brackets, as in http://[::1]/");
            }
            Some((host, port)) => (host.to_owned(), Some(port)),
            None => (authority.to_owned(), None),
        },
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if host.is_empty() {
        return Err("the host is missing");
    }
    if host.len() > 253 || (!host.contains(':') && !host.bytes().all(plain)) {
        return Err("the host name is not valid");
    }
    let port = match port {
        None | Some("") => None,
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            let port = digits.parse().ok().filter(|&port| port != 0);
            Some(port.ok_or("the port is not valid")?)
        }
        Some(_) => return Err("the port is not valid"),
    };
    Ok((host, port))
}

/// An IPv6 address; a zone follows `%25` (RFC 6874) or, as people type it, `%`.
fn parse_v6(inside: &str) -> Result<String, &'static str> {
    let (address, zone) = match inside.split_once('%') {
        Some((address, zone)) => (address, Some(zone.strip_prefix("25").unwrap_or(zone))),
        None => (inside, None),
    };
    let address: std::net::Ipv6Addr = address
        .parse()
        .map_err(|_| "the IPv6 address is not valid")?;
    match zone {
        None => Ok(address.to_string()),
        Some(zone)
            if (1..=15).contains(&zone.len())
                && zone
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)) =>
        {
            Ok(format!("{address}%{zone}"))
        }
        Some(_) => Err("the zone of the IPv6 address is not valid"),
    }
}

/// Whether a reference names its own scheme (`a:`), so that it is not a relative one.
fn has_scheme(reference: &str) -> bool {
    let end = reference.find([':', '/', '?']).unwrap_or(reference.len());
    reference[end..].starts_with(':')
        && reference.starts_with(|first: char| first.is_ascii_alphabetic())
}

fn split_query(target: &str) -> (&str, Option<&str>) {
    match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    }
}

fn with_query(path: String, query: Option<&str>) -> String {
    match query {
        Some(query) => format!("{path}?{query}"),
        None => path,
    }
}

/// RFC 3986, section 5.2.4, for a path that starts with a slash.
fn remove_dot_segments(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." => {}
            ".." => {
                kept.pop();
            }
            other => {
                kept.push(other);
                continue;
            }
        }
        if last {
            kept.push("");
        }
    }
    format!("/{}", kept.join("/"))
}

fn check_characters(text: &str) -> Result<(), UrlError> {
    if text
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte))
    {
        Ok(())
    } else {
        Err(UrlError::Character(printable(text)))
    }
}

/// A text that may hold anything, safe to print on one line.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .take(200)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().expect(text)
    }

    #[test]
    fn parses_and_prints() {
        for (text, host, port, target, header, printed) in [
            ("http://a", "a", 80, "/", "a", "http://a/"),
            ("HTTP://a:80/x", "a", 80, "/x", "a", "http://a/x"),
            (
                "http://a:8080?q=1",
                "a",
                8080,
                "/?q=1",
                "a:8080",
                "http://a:8080/?q=1",
            ),
            (
                "http://10.0.0.1:81/a/../b#f",
                "10.0.0.1",
                81,
                "/b",
                "10.0.0.1:81",
                "http://10.0.0.1:81/b",
            ),
            (
                "http://[::1]:8080/m",
                "::1",
                8080,
                "/m",
                "[::1]:8080",
                "http://[::1]:8080/m",
            ),
            (
                "http://[FE80:0::1%25eth0]/m",
                "fe80::1%eth0",
                80,
                "/m",
                "[fe80::1]",
                "http://[fe80::1%25eth0]/m",
            ),
            ("https://a/x", "a", 443, "/x", "a", "https://a/x"),
            ("HTTPS://a:80/", "a", 80, "/", "a:80", "https://a:80/"),
            (
                "http://[fe80::1%eth0]:90/",
                "fe80::1%eth0",
                90,
                "/",
                "[fe80::1]:90",
                "http://[fe80::1%25eth0]:90/",
            ),
        ] {
            let parsed = url(text);
            assert_eq!(
                (parsed.host(), parsed.port(), parsed.target()),
                (host, port, target),
                "{text}"
            );
            assert_eq!(parsed.host_header(), header, "{text}");
            assert_eq!(parsed.to_string(), printed, "{text}");
            assert_eq!(
                url(printed),
                parsed,
                "{text}: the printed form is not the same URL"
            );
        }
    }

    #[test]
    fn refuses_what_it_cannot_fetch() {
        for text in [
            "",
            "a",
            "/a",
            "ftp://a/",
            "file:///etc/passwd",
            "http:/a",
            "httpx://a",
        ] {
            assert!(
                matches!(text.parse::<Url>(), Err(UrlError::Scheme(_))),
                "{text:?}"
            );
        }
        for text in [
            "http://",
            "http:///a",
            "http://:80/",
            "http://u:p@a/",
            "http://u@a/",
            "http://a:b/",
            "http://a:0/",
            "http://a:65536/",
            "http://a:+1/",
            "http://::1/",
            "http://[::1/",
            "http://[::1]x/",
            "http://[1]/",
            "http://[fe80::1%]/",
            "http://[fe80::1%25a/b]/",
            "http://a%41/",
            "http://a,b/",
        ] {
            assert!(
                matches!(text.parse::<Url>(), Err(UrlError::Authority { .. })),
                "{text:?}"
            );
        }
        for text in [
            "http://a/ b",
            "http://a/\n",
            "http://a/\r\nX: y",
            "http://ä/",
            "http://a/\u{7f}",
        ] {
            assert!(
                matches!(text.parse::<Url>(), Err(UrlError::Character(_))),
                "{text:?}"
            );
        }
        assert_eq!(
            format!("http://a/{}", "x".repeat(URL_SIZE_MAX)).parse::<Url>(),
            Err(UrlError::TooLong)
        );
    }

    /// The normal and abnormal examples of RFC 3986, sections 5.4.1 and 5.4.2, as far as they stay in http.
    #[test]
    fn resolves_references_as_rfc_3986_does() {
        let base = url("http://a/b/c/d;p?q");
        for (reference, resolved) in [
            ("g", "http://a/b/c/g"),
            ("./g", "http://a/b/c/g"),
            ("g/", "http://a/b/c/g/"),
            ("/g", "http://a/g"),
            ("//g", "http://g/"),
            ("?y", "http://a/b/c/d;p?y"),
            ("g?y", "http://a/b/c/g?y"),
            ("#s", "http://a/b/c/d;p?q"),
            ("g#s", "http://a/b/c/g"),
            (";x", "http://a/b/c/;x"),
            ("", "http://a/b/c/d;p?q"),
            (".", "http://a/b/c/"),
            ("./", "http://a/b/c/"),
            ("..", "http://a/b/"),
            ("../", "http://a/b/"),
            ("../g", "http://a/b/g"),
            ("../..", "http://a/"),
            ("../../g", "http://a/g"),
            ("../../../g", "http://a/g"),
            ("/./g", "http://a/g"),
            ("/../g", "http://a/g"),
            ("g.", "http://a/b/c/g."),
            ("..g", "http://a/b/c/..g"),
            ("./../g", "http://a/b/g"),
            ("./g/.", "http://a/b/c/g/"),
            ("g/./h", "http://a/b/c/g/h"),
            ("g/../h", "http://a/b/c/h"),
            ("g?y/../x", "http://a/b/c/g?y/../x"),
            ("http://h:81/x", "http://h:81/x"),
        ] {
            assert_eq!(
                base.join(reference).expect(reference).to_string(),
                resolved,
                "{reference:?}"
            );
        }
        let tls = base.join("https://h/x").expect("another scheme");
        assert!(tls.is_https() && !tls.same_origin(&url("http://h:443/")));
        assert_eq!(tls.join("//g").expect("a name").to_string(), "https://g/");
        assert!(matches!(base.join("file:///x"), Err(UrlError::Scheme(_))));
        assert!(matches!(base.join("a\r\nb"), Err(UrlError::Character(_))));
    }
}
