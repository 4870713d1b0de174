//! Fetching against servers that do everything servers do to clients, over real sockets on the loopback.

mod artifacts;
mod crowd;
mod image;
mod manifests;
mod memory;
mod newest;
mod server;
mod several;

use std::sync::Arc;
use std::time::Duration;

use artifact_store::Folder;
use boot_manifest::{Expect, Expiry, Floor, Manifest, Verified};
use fetch::{FetchError, Fetcher, Limits, Providers, Report, Url};

use image::{Image, NOW};
use server::{Server, Then, answer, file};

/// Impatient, so that a test of patience takes a moment.
fn limits() -> Limits {
    Limits {
        connect: Duration::from_secs(5),
        header: Duration::from_secs(5),
        rate_window: Duration::from_millis(400),
        rate_min: 10_000,
        total: Duration::from_secs(30),
        retries: 2,
        retry_delay: Duration::from_millis(5),
        rate_max: None,
        redirects: 3,
    }
}

fn expect() -> Expect<'static> {
    Expect {
        now: NOW,
        floor: Floor::default(),
        channel: None,
        arch: None,
        expiry: Expiry::Refuse,
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a working test machine");
    runtime.block_on(future)
}

/// A provider that serves `image`, except where `special` answers instead.
fn provider(
    image: &Arc<Image>,
    special: impl Fn(&server::Request, &mut std::net::TcpStream, &[u8]) -> Option<Then>
    + Send
    + Sync
    + 'static,
) -> Server {
    let image = Arc::clone(image);
    Server::start(move |request, stream| {
        let bytes = image.at(&request.target);
        if let Some(then) = special(request, stream, bytes.unwrap_or_default()) {
            return then;
        }
        match bytes {
            Some(bytes) => file(request, stream, bytes),
            None => answer(stream, "404 Not Found", "", b"no such file"),
        }
    })
}

fn url(text: &str) -> Url {
    text.parse().expect("a URL")
}

/// Fetches the manifest and one artifact into a fresh folder, and tells what came of it.
struct Outcome {
    folder: tempfile::TempDir,
    result: Result<Report, FetchError>,
}

impl Outcome {
    /// What is visible under the artifact's name.
    fn file(&self, name: &str) -> Option<Vec<u8>> {
        std::fs::read(self.folder.path().join(name)).ok()
    }

    fn error(&self) -> &FetchError {
        self.result.as_ref().expect_err("it should have failed")
    }

    fn report(&self) -> &Report {
        self.result.as_ref().expect("it should have succeeded")
    }
}

fn verified(image: &Image) -> Verified<Manifest> {
    boot_manifest::verify(&image.manifest, &image.root(), &expect()).expect("a good manifest")
}

fn fetch_artifact(image: &Image, server: &Server, name: &str, limits: Limits) -> Outcome {
    let folder = tempfile::tempdir().expect("a working test machine");
    let result = fetch_into(folder.path(), image, server, name, limits);
    Outcome { folder, result }
}

fn fetch_into(
    folder: &std::path::Path,
    image: &Image,
    server: &Server,
    name: &str,
    limits: Limits,
) -> Result<Report, FetchError> {
    let manifest = verified(image);
    let artifact = manifest.artifact(name).expect("it exists");
    let base = url(&server.url("/stable/x86_64/manifest.json"));
    let partial = Folder::open(folder)
        .expect("a working test machine")
        .begin(artifact)
        .expect("a working test machine");
    let sources = fetch::sources(&base, &manifest, artifact);
    let (partial, report) = block_on(async {
        Fetcher::new(limits)
            .artifact(&manifest, name, &sources[..], partial, |_| {})
            .await
    })?;
    partial.commit().expect("a working test machine");
    Ok(report)
}
