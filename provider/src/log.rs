//! Logging for every command: `tracing` events as lines on stderr.
//!
//! `RUST_LOG` (`debug`, or `plasmd=debug,discovery=trace`) replaces the command's own level completely, in both
//! directions. Under systemd each line starts with its priority (`<3>` = error), so that `journalctl -p err` works.
//! Under systemd and under init lines carry no time of their own: both stamp what they receive.

use std::fmt;
use std::io::IsTerminal;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::{Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Starts logging at `level` unless `RUST_LOG` says otherwise. Call once, from `main`.
pub(crate) fn start(level: LevelFilter) {
    let asked = std::env::var("RUST_LOG").unwrap_or_default();
    let (filter, bad) = match asked.trim() {
        "" => (Targets::new().with_default(level), None),
        text => match text.parse::<Targets>() {
            Ok(targets) => (targets, None),
            Err(error) => (Targets::new().with_default(level), Some(error)),
        },
    };
    let journal = std::env::var_os("JOURNAL_STREAM").is_some() && !std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let plain = Format::default().with_target(false);
    let under_init = std::env::var_os(boot_manifest::handoff::ENV).is_some();
    let registry = tracing_subscriber::registry();
    // A second start can only come from a test; the first one stays.
    let _started = if journal {
        let event = Prioritised(plain.without_time().with_level(false));
        registry
            .with(lines.event_format(event).with_filter(filter))
            .try_init()
    } else if under_init {
        registry
            .with(lines.event_format(plain.without_time()).with_filter(filter))
            .try_init()
    } else {
        registry
            .with(lines.event_format(plain).with_filter(filter))
            .try_init()
    };
    if let Some(error) = bad {
        tracing::warn!(%error, "RUST_LOG is not understood and was ignored");
    }
}

/// Puts the syslog priority in front of each line, as systemd reads it (sd-daemon(3)).
struct Prioritised<F>(F);

impl<S, N, F> FormatEvent<S, N> for Prioritised<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        self.0.format_event(context, writer, event)
    }
}

/// The syslog number of a level.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}
