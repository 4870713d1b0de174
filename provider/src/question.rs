//! One HTTP request to a provider, for programs that ask a few things and end: bounded in time and size, over HTTP or HTTPS.
//!
//! Nothing here is verified, no redirect is followed, and what comes back is bytes: what they mean is for who asked.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use fetch::Trust;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, RANGE};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::exit::CommandError;

/// Time for one answer, connecting included. A provider on the same network needs milliseconds; a first manifest may
/// wait for hashing.
pub(crate) const ANSWER_WAIT_MAX: Duration = Duration::from_secs(30);

/// Bytes of one answer: a manifest is the largest but for a state with many clients, and has at most this many.
pub(crate) const ANSWER_SIZE_MAX: usize = boot_manifest::MANIFEST_SIZE_MAX;

/// What is asked, and how long for.
#[derive(Debug, Clone)]
pub(crate) struct Question<'a> {
    /// The provider, as a person names it.
    pub(crate) base: &'a str,
    /// What is asked of it.
    pub(crate) path: &'a str,
    /// GET, or POST with a body.
    pub(crate) method: Method,
    /// Only these bytes.
    pub(crate) range: Option<Range<u64>>,
    /// What is sent, and its type.
    pub(crate) body: Option<(&'static str, Bytes)>,
    /// Time for the whole of it.
    pub(crate) wait: Duration,
    /// Bytes that are taken at most.
    pub(crate) size_max: usize,
}

/// What came back.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// Of whatever kind.
    pub(crate) status: StatusCode,
    /// Whole.
    pub(crate) body: Bytes,
}

impl Answer {
    /// The first line as text that cannot steer a terminal: what a refusal says.
    pub(crate) fn line(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        crate::out::printable(text.lines().next().unwrap_or_default())
    }
}

/// A runtime for one question after the other.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, CommandError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CommandError::local(format!("cannot start: {error}")))
}

impl<'a> Question<'a> {
    /// GET of all of `path`.
    pub(crate) fn get(base: &'a str, path: &'a str) -> Self {
        Self {
            base,
            path,
            method: Method::GET,
            range: None,
            body: None,
            wait: ANSWER_WAIT_MAX,
            size_max: ANSWER_SIZE_MAX,
        }
    }

    /// POST of `body`, which is of this type.
    pub(crate) fn post(base: &'a str, path: &'a str, body: (&'static str, Bytes)) -> Self {
        Self {
            method: Method::POST,
            body: Some(body),
            ..Self::get(base, path)
        }
    }

    /// Where it goes.
    pub(crate) fn url(&self) -> String {
        format!("{}{}", self.base.trim_end_matches('/'), self.path)
    }

    /// Asks.
    ///
    /// # Errors
    /// When there is no whole answer in time; an answer that refuses is none.
    pub(crate) async fn ask(&self, trust: &Trust) -> Result<Answer, CommandError> {
        let url = self.url();
        let unreachable = |reason: String| {
            CommandError::failed(format!("{url}: {reason}")).hint(
                "is the provider running there? `plasmd serve` starts one; --addr names another",
            )
        };
        let uri: Uri = url
            .parse()
            .map_err(|error| CommandError::usage(format!("{url}: {error}")))?;
        let (Some("http" | "https"), Some(_)) = (uri.scheme_str(), uri.authority()) else {
            return Err(CommandError::usage(format!(
                "{url}: not a URL that begins with http:// or https://"
            )));
        };
        match tokio::time::timeout(self.wait, self.connect(&uri, trust)).await {
            Ok(answer) => answer.map_err(|error| unreachable(error.to_string())),
            Err(_) => Err(unreachable(format!(
                "no answer within {} s",
                self.wait.as_secs()
            ))),
        }
    }

    async fn connect(&self, uri: &Uri, trust: &Trust) -> anyhow::Result<Answer> {
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let is_https = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if is_https { 443 } else { 80 });
        let stream = TcpStream::connect((host, port)).await?;
        if !is_https {
            return self.exchange(uri, stream).await;
        }
        let stream = trust.connect(host, stream).await;
        self.exchange(uri, stream.map_err(anyhow::Error::msg)?)
            .await
    }

    async fn exchange<S>(&self, uri: &Uri, stream: S) -> anyhow::Result<Answer>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::builder()
            .method(&self.method)
            .uri(path)
            .header(HOST, authority)
            .header(CONNECTION, "close");
        if let Some(Range { start, end }) = &self.range {
            let last = end.saturating_sub(1);
            request = request.header(RANGE, format!("bytes={start}-{last}"));
        }
        let mut body = Bytes::new();
        if let Some((kind, bytes)) = &self.body {
            request = request.header(CONTENT_TYPE, *kind);
            body = bytes.clone();
        }
        let request = request.body(Full::new(body))?;
        let exchange = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), self.size_max)
                .collect()
                .await;
            let body = body.map_err(|error| anyhow::anyhow!("{error}"))?;
            Ok(Answer {
                status,
                body: body.to_bytes(),
            })
        };
        let (answer, _) = tokio::join!(exchange, connection);
        answer
    }
}
