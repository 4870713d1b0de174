//! The control socket: what the operator of this machine asks a running provider, and tells it. HTTP and JSON over a Unix
//! socket, so that `curl --unix-socket` works too.
//!
//! Only root and the user that the provider was started by, or runs as, are heard: the file's mode says so, and the kernel
//! is asked who connects. A lock file beside the socket is held for as long as the process lives, so two providers never
//! share one socket, and a socket that a killed one left behind is replaced.
//!
//! | module | holds |
//! | --- | --- |
//! | `cmd` | `plasmd reload`, `log-level`, and what `plasmd clients` asks by: the other end |
//!
//! Which routes there are is said by the [`Routes`] that [`serve`] is given; nothing here knows what they do.

pub(crate) mod cmd;

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use crate::held_folder::{Lock, take_lock};
use crate::serve::metrics::{Metrics, Reason};

/// Where the socket is when nothing else is said.
pub(crate) const DEFAULT_SOCKET: &str = "/run/plasmd/control.sock";

/// Bytes of a request body: a log filter, or a list of some hundred machines.
const BODY_SIZE_MAX: usize = 64 * 1024;

/// Operators at once. A script per machine of a rack fits; others wait.
const CONNECTIONS_MAX: usize = 64;

/// Time for one exchange on a connection, a reload included.
const EXCHANGE_MAX: Duration = Duration::from_secs(60);

/// What a route answers: a status and JSON.
pub(crate) type Answer = (StatusCode, Value);

/// What can be asked. Later parts add routes here, not in this file.
pub(crate) trait Routes: Send + Sync + 'static {
    /// Every route: method and path, and what it is for.
    fn list(&self) -> &'static [(&'static str, &'static str, &'static str)];

    /// Answers a request for a path of the list. `body` is null when there was none.
    fn answer(
        &self,
        method: &Method,
        path: &str,
        body: Value,
    ) -> impl Future<Output = Answer> + Send;
}

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Another process has it.
    #[error("{path}: another provider ({pid}) is controlled there")]
    Taken {
        /// The socket.
        path: PathBuf,
        /// What the lock file says about its process.
        pid: String,
    },
    /// Something else has this name.
    #[error("{0}: is there and is no socket")]
    NoSocket(PathBuf),
    /// The machine is in the way.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
}

/// A socket that is bound. The file goes when this does.
#[derive(Debug)]
pub(crate) struct Socket {
    path: PathBuf,
    _lock: File,
}

/// The end of a [`Socket`] that hears.
#[derive(Debug)]
pub(crate) struct Listening {
    listener: StdListener,
    /// Who may connect besides root.
    user: u32,
}

impl Socket {
    /// Binds the socket at `path`, with mode 0600. Its folder is made when it is missing.
    ///
    /// # Errors
    /// When another process holds it, or the file cannot be made.
    pub(crate) fn bind(path: &Path) -> Result<(Self, Listening), Error> {
        let io = |source| Error::Io {
            path: path.to_owned(),
            source,
        };
        if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
            let mut builder = std::fs::DirBuilder::new();
            builder.mode(0o755).create(folder).map_err(io)?;
        }
        let lock = lock(path)?;
        match path.symlink_metadata() {
            Ok(facts) if !facts.file_type().is_socket() => {
                return Err(Error::NoSocket(path.to_owned()));
            }
            // A process that was killed left it: we have its lock.
            Ok(_) => std::fs::remove_file(path).map_err(io)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io(error)),
        }
        // Nobody may connect before the mode is right, so it gets its name last.
        let fresh = beside(path, "new");
        let _ = std::fs::remove_file(&fresh);
        let listener = StdListener::bind(&fresh).map_err(io)?;
        let only_ours = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&fresh, only_ours).map_err(io)?;
        std::fs::rename(&fresh, path).map_err(io)?;
        listener.set_nonblocking(true).map_err(io)?;
        let socket = Self {
            path: path.to_owned(),
            _lock: lock,
        };
        let user = rustix::process::geteuid().as_raw();
        Ok((socket, Listening { listener, user }))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Another user may have become unable to; the next process replaces it. The lock file stays: taking it away would
        // let two processes lock two files of one name.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// `control.sock.lock`
fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(end);
    PathBuf::from(name)
}

/// Takes the lock of a socket, and writes into it who has it.
fn lock(path: &Path) -> Result<File, Error> {
    let path = &beside(path, "lock");
    let io = |source| Error::Io {
        path: path.clone(),
        source,
    };
    let mut file = match take_lock(path).map_err(io)? {
        Lock::Ours(file) => file,
        Lock::Theirs(file) => {
            let mut pid = String::new();
            // For people only: an empty one is no harm.
            let _ = file.take(16).read_to_string(&mut pid);
            return Err(Error::Taken {
                path: path.with_extension(""),
                pid: format!("process {}", pid.trim()),
            });
        }
    };
    file.set_len(0).map_err(io)?;
    writeln!(file, "{}", std::process::id()).map_err(io)?;
    Ok(file)
}

/// Answers on the socket for ever. What is in progress ends with the task.
pub(crate) async fn serve<R: Routes>(socket: Listening, routes: Arc<R>, metrics: Arc<Metrics>) {
    let listener = match UnixListener::from_std(socket.listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "the control socket cannot be watched"),
    };
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "nobody could connect to the control socket");
                tokio::time::sleep(crate::http::limits::ACCEPT_PAUSE).await;
                continue;
            }
        };
        if !may_connect(&stream, socket.user) {
            metrics.refused(Reason::ControlPeer);
            continue;
        }
        let routes = Arc::clone(&routes);
        tokio::spawn(async move {
            let service = service_fn(|request| answer(&*routes, request));
            let connection = http1::Builder::new()
                .half_close(true)
                .serve_connection(TokioIo::new(stream), service);
            match tokio::time::timeout(EXCHANGE_MAX, connection).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "control connection ended early"),
                Err(_) => tracing::debug!("control connection took too long"),
            }
            drop(place);
        });
    }
}

/// Root, the user that bound the socket, and the one that serves now.
fn may_connect(stream: &UnixStream, user: u32) -> bool {
    let Ok(peer) = stream.peer_cred() else {
        return false;
    };
    let now = rustix::process::geteuid().as_raw();
    let may = [0, user, now].contains(&peer.uid());
    if !may {
        tracing::warn!(user = peer.uid(), process = ?peer.pid(), "refused at the control socket");
    }
    may
}

async fn answer<R: Routes>(
    routes: &R,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let methods: Vec<&str> = routes
        .list()
        .iter()
        .filter(|(_, known, _)| *known == path)
        .map(|(method, ..)| *method)
        .collect();
    if path == "/" && methods.is_empty() {
        return Ok(json_response((StatusCode::OK, index(routes))));
    }
    if methods.is_empty() {
        let error = format!("{path}: there is no such route; / lists them");
        return Ok(json_response(refusal(StatusCode::NOT_FOUND, &error)));
    }
    if !methods.contains(&head.method.as_str()) {
        let methods = methods.join(", ");
        let error = format!("{path} takes {methods}");
        let mut response = json_response(refusal(StatusCode::METHOD_NOT_ALLOWED, &error));
        if let Ok(methods) = HeaderValue::try_from(methods) {
            response.headers_mut().insert(ALLOW, methods);
        }
        return Ok(response);
    }
    let body = match read(body).await {
        Ok(body) => body,
        Err(error) => return Ok(json_response(refusal(StatusCode::BAD_REQUEST, &error))),
    };
    Ok(json_response(routes.answer(&head.method, path, body).await))
}

async fn read(body: Incoming) -> Result<Value, String> {
    let body = Limited::new(body, BODY_SIZE_MAX)
        .collect()
        .await
        .map_err(|error| error.to_string())?
        .to_bytes();
    if body.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&body).map_err(|error| format!("the body is no JSON: {error}"))
}

fn index<R: Routes>(routes: &R) -> Value {
    let route = |(method, path, what): &(&str, &str, &str)| json!({ "method": method, "path": path, "what": what });
    json!({ "routes": routes.list().iter().map(route).collect::<Vec<_>>() })
}

/// An answer that says what is wrong.
pub(crate) fn refusal(status: StatusCode, error: &str) -> Answer {
    (status, json!({ "error": error }))
}

fn json_response((status, value): Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{value}\n"))));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_socket_has_one_process_and_a_stale_one_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/control.sock");
        let first = Socket::bind(&path).unwrap();
        let mode = path.symlink_metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let error = Socket::bind(&path).unwrap_err().to_string();
        let expected = format!(
            "control.sock: another provider (process {})",
            std::process::id()
        );
        assert!(error.contains(&expected), "{error}");
        drop(first);
        assert!(!path.exists());
        // As after a kill: the file is there, the lock is free.
        drop(StdListener::bind(&path).unwrap());
        assert!(path.exists());
        let (second, _listening) = Socket::bind(&path).unwrap();
        std::os::unix::net::UnixStream::connect(second.path()).unwrap();
    }

    #[test]
    fn nothing_else_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(Socket::bind(&path), Err(Error::NoSocket(_))));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        assert!(matches!(
            Socket::bind(Path::new("/proc/none/control.sock")),
            Err(Error::Io { .. })
        ));
    }
}
