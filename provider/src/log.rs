//! Logging for every command: `tracing` events as lines on stderr.
//!
//! `RUST_LOG` (`debug`, or `plasmd=debug,discovery=trace`) replaces the command's own level completely, in both
//! directions; a running provider is told another one over its control socket. Under systemd each line starts with its priority (`<3>` = error), so that `journalctl -p err` works.
//! Under systemd and under init lines carry no time of their own: both stamp what they receive.

mod lines;

use std::fmt;
use std::io::IsTerminal;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::{Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, Registry, reload};

pub(crate) use crate::log::lines::Lines;

/// What is logged, and where that can be changed.
static LEVEL: OnceLock<Mutex<Live>> = OnceLock::new();

/// The filter in force, its text, and the handle that replaces it.
struct Live {
    text: String,
    handle: reload::Handle<Targets, Registry>,
}

/// What to log.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// A level, or a list like `info,plasmd=debug`.
    pub(crate) filter: String,
    /// Whether it is stronger than `RUST_LOG`: it was asked for on the command line.
    pub(crate) is_firm: bool,
}

/// Starts logging at `level` unless `RUST_LOG` says otherwise. Call once, from `main`.
pub(crate) fn start(wanted: &Wanted) {
    let asked = std::env::var("RUST_LOG").unwrap_or_default();
    let (text, targets, bad) = match asked.trim() {
        text if text.is_empty() || wanted.is_firm => {
            let text = wanted.filter.as_str();
            (text, text.parse().unwrap_or_default(), None)
        }
        text => match text.parse::<Targets>() {
            Ok(targets) => (text, targets, None),
            Err(error) => {
                let text = wanted.filter.as_str();
                (text, text.parse().unwrap_or_default(), Some(error))
            }
        },
    };
    let journal = std::env::var_os("JOURNAL_STREAM").is_some() && !std::io::stderr().is_terminal();
    let under_init = std::env::var_os(boot_manifest::handoff::ENV).is_some();
    let (filter, handle) = reload::Layer::new(without_libraries(targets, text));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let plain = Format::default().with_target(false);
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
    let text = text.to_owned();
    let _ = LEVEL.set(Mutex::new(Live { text, handle }));
    if let Some(error) = bad {
        tracing::warn!(%error, "RUST_LOG is not understood and was ignored");
    }
}

/// What is logged now, as it was asked for.
pub(crate) fn level() -> String {
    LEVEL
        .get()
        .map(|level| lock(level).text.clone())
        .unwrap_or_default()
}

/// Logs `filter` from now on: a level, or a list like `info,plasmd=debug`.
///
/// # Errors
/// When it cannot be understood; nothing changes.
pub(crate) fn set_level(filter: &str) -> Result<(), String> {
    let targets = parse(filter)?;
    let Some(level) = LEVEL.get() else {
        return Err("this process does not log".to_owned());
    };
    let mut level = lock(level);
    level
        .handle
        .reload(without_libraries(targets, filter))
        .map_err(|error| error.to_string())?;
    filter.trim().clone_into(&mut level.text);
    Ok(())
}

/// Reads a filter.
///
/// # Errors
/// What a person needs to know.
pub(crate) fn parse(filter: &str) -> Result<Targets, String> {
    let filter = filter.trim();
    // The library takes any word for the name of a target.
    let is_level = |text: &str| !text.is_empty() && text.parse::<LevelFilter>().is_ok();
    let is_known = |part: &str| match part.split_once('=') {
        Some((target, level)) => !target.is_empty() && is_level(level),
        None => is_level(part),
    };
    match filter.split(',').find(|part| !is_known(part.trim())) {
        Some(part) => Err(format!(
            "`{}` is no log level: use error, warn, info, debug, trace or off, or a list like info,plasmd::serve=debug",
            part.escape_debug()
        )),
        None => filter
            .parse()
            .map_err(|error: tracing_subscriber::filter::ParseError| error.to_string()),
    }
}

/// The library of the DHT and what it is made of. What they say below an error is for their authors, and other members of
/// the DHT can make them say it.
const LIBRARIES: [&str; 4] = ["libp2p", "multistream_select", "netlink", "yamux"];

/// Without [`LIBRARIES`], unless somebody asks for one of them, or for everything.
fn without_libraries(targets: Targets, text: &str) -> Targets {
    match targets.default_level() {
        Some(level) if level <= LevelFilter::INFO => LIBRARIES
            .into_iter()
            .filter(|library| !text.contains(library))
            .fold(targets, |targets, library| {
                targets.with_target(library, LevelFilter::ERROR.min(level))
            }),
        _ => targets,
    }
}

fn lock(level: &Mutex<Live>) -> MutexGuard<'_, Live> {
    // Text and filter are changed one after the other, and both are whole.
    level.lock().unwrap_or_else(PoisonError::into_inner)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_is_quiet_unless_it_is_asked_for() {
        for (text, is_heard) in [
            ("info", false),
            ("warn", false),
            ("debug", true),
            ("info,libp2p_swarm=info", true),
        ] {
            let targets = without_libraries(parse(text).unwrap(), text);
            let enabled = targets.would_enable("libp2p_swarm", &Level::WARN);
            assert_eq!(enabled, is_heard, "{text}");
            assert!(targets.would_enable("libp2p_swarm", &Level::ERROR));
            assert!(targets.would_enable("plasmd", &Level::WARN));
        }
        let off = without_libraries(parse("off").unwrap(), "off");
        assert!(!off.would_enable("yamux", &Level::ERROR));
    }

    #[test]
    fn levels_and_lists_are_understood_and_words_are_not() {
        for good in ["info", "DEBUG", "off", "warn,plasmd::serve=trace", " info "] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "verbose",
            "info,",
            "plasmd=",
            "=info",
            "plasmd=loud",
            "a\u{1b}b",
        ] {
            let error = parse(bad).unwrap_err();
            assert!(
                error.contains("log level") && !error.contains('\u{1b}'),
                "{error}"
            );
        }
    }
}
