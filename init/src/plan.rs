//! What is done in which order, decided from facts without doing anything.
//!
//! ```text
//! network ─► source 1 ─┬─ mounted ─► serve
//!                      └─ absent or refused ─► source 2 ─ ... ─► none left ─► fatal screen, restart
//! ```
//!
//! [`plan`] is pure, and [`follow`] only walks the list: what a phase does is behind [`Kernel`], so both are tested
//! without a machine.

use crate::cmdline::{Options, SourceChoice};

/// What is known when the order is decided.
#[derive(Debug, Clone)]
pub(crate) struct Facts<'a> {
    /// The kernel command line.
    pub(crate) options: &'a Options,
    /// Whether the initramfs brought a manifest along.
    pub(crate) initramfs_has_artifacts: bool,
}

/// One place where artifacts may come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// A partition named `phase-artifacts`.
    Disk {
        /// Nothing else can be tried after it, so it is worth a long wait.
        only: bool,
    },
    /// `/phase` of the initramfs.
    Initramfs,
    /// Another machine; ends in its kernel.
    Provider {
        /// Nobody said which: one is looked for. Tried only when nothing was there before, because what was there and did
        /// not verify is for a person to see.
        search: bool,
    },
}

impl Source {
    /// The name on the console and in `phase.source=`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Disk { .. } => "disk",
            Self::Initramfs => "initramfs",
            Self::Provider { .. } => "provider",
        }
    }
}

/// One step of the boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Start the `net` role.
    Network,
    /// Try to get artifacts.
    Obtain(Source),
    /// Start the `serve` role. Reached only when a source was mounted.
    Serve,
}

/// The phases in order.
pub(crate) fn plan(facts: &Facts<'_>) -> Vec<Phase> {
    let options = facts.options;
    let provider = match &options.provider {
        Some(_) => Some(Source::Provider { search: false }),
        None if options.may_search() && !facts.initramfs_has_artifacts => {
            Some(Source::Provider { search: true })
        }
        None => None,
    };
    let mut phases = vec![Phase::Network];
    let mut obtain = |source| phases.push(Phase::Obtain(source));
    match options.source {
        SourceChoice::Auto => {
            obtain(Source::Disk {
                only: !facts.initramfs_has_artifacts && provider.is_none(),
            });
            if facts.initramfs_has_artifacts {
                obtain(Source::Initramfs);
            }
            if let Some(provider) = provider {
                obtain(provider);
            }
        }
        SourceChoice::Disk => obtain(Source::Disk { only: true }),
        SourceChoice::Initramfs => obtain(Source::Initramfs),
        SourceChoice::Provider => obtain(Source::Provider {
            search: options.may_search(),
        }),
    }
    phases.push(Phase::Serve);
    phases
}

/// Why a source gave nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// A stable name: that of a verification error, or one of `init`'s own (see `console`).
    pub(crate) code: String,
    /// One sentence for people.
    pub(crate) reason: String,
}

impl Refusal {
    pub(crate) fn new(code: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            reason: reason.into(),
        }
    }

    /// Nothing was there, as opposed to something that did not verify.
    pub(crate) fn is_absence(&self) -> bool {
        self.code == Self::NOT_FOUND
    }

    /// The code for a source that is not there.
    pub(crate) const NOT_FOUND: &'static str = "not-found";
}

/// Why a step ended early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Somebody asked for a power-off or a restart meanwhile.
    Ending,
    /// It does not work, and why.
    Refused(Refusal),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// What the phases do.
pub(crate) trait Kernel {
    /// Starts the `net` role.
    fn start_network(&mut self);
    /// Gets artifacts and mounts them, or boots them by kexec: then it ends with [`Stop::Ending`].
    fn obtain(&mut self, source: Source) -> Result<(), Stop>;
    /// Tells the console about a source that gave nothing.
    fn report(&mut self, source: Source, refusal: &Refusal);
    /// Starts the `serve` role.
    fn start_serving(&mut self);
}

/// How the boot went.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The machine serves.
    Serving,
    /// Somebody asked for a power-off or a restart.
    Ending,
    /// No source gave anything: the one that says most about the cause.
    Fatal(Refusal),
}

/// Walks the phases.
pub(crate) fn follow(phases: &[Phase], kernel: &mut impl Kernel) -> Outcome {
    let mut mounted = false;
    let mut cause: Option<Refusal> = None;
    for phase in phases {
        match phase {
            Phase::Network => kernel.start_network(),
            Phase::Obtain(_) if mounted => {}
            Phase::Obtain(Source::Provider { search: true })
                if cause.as_ref().is_some_and(|cause| !cause.is_absence()) => {}
            Phase::Obtain(source) => match kernel.obtain(*source) {
                Ok(()) => mounted = true,
                Err(Stop::Ending) => return Outcome::Ending,
                Err(Stop::Refused(refusal)) => {
                    kernel.report(*source, &refusal);
                    // A source that was there and wrong explains more than one that was not there.
                    let explains = cause
                        .as_ref()
                        .is_none_or(|old| old.is_absence() || !refusal.is_absence());
                    if explains {
                        cause = Some(refusal);
                    }
                }
            },
            Phase::Serve if mounted => kernel.start_serving(),
            Phase::Serve => {}
        }
    }
    if mounted {
        return Outcome::Serving;
    }
    Outcome::Fatal(cause.unwrap_or_else(|| {
        Refusal::new(Refusal::NOT_FOUND, "no source of artifacts is configured")
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(command_line: &str, initramfs_has_artifacts: bool, expected: &[Source]) {
        let (options, _) = crate::cmdline::parse(command_line);
        let phases = plan(&Facts {
            options: &options,
            initramfs_has_artifacts,
        });
        let sources: Vec<Source> = phases
            .iter()
            .filter_map(|phase| match phase {
                Phase::Obtain(source) => Some(*source),
                Phase::Network | Phase::Serve => None,
            })
            .collect();
        assert_eq!(sources, expected, "{command_line}");
        assert_eq!(
            phases.first(),
            Some(&Phase::Network),
            "the network comes up meanwhile"
        );
        assert_eq!(phases.last(), Some(&Phase::Serve));
    }

    #[test]
    fn sources_stand_in_order() {
        let provider = "phase.provider=http://a";
        check(
            "",
            false,
            &[
                Source::Disk { only: false },
                Source::Provider { search: true },
            ],
        );
        check("phase.mode=private", false, &[Source::Disk { only: true }]);
        check(
            "phase.source=provider",
            true,
            &[Source::Provider { search: true }],
        );
        check("", true, &[Source::Disk { only: false }, Source::Initramfs]);
        check(
            provider,
            false,
            &[
                Source::Disk { only: false },
                Source::Provider { search: false },
            ],
        );
        check(
            provider,
            true,
            &[
                Source::Disk { only: false },
                Source::Initramfs,
                Source::Provider { search: false },
            ],
        );
        check(
            "phase.source=initramfs phase.provider=http://a",
            true,
            &[Source::Initramfs],
        );
        check(
            "phase.source=provider phase.provider=http://a",
            true,
            &[Source::Provider { search: false }],
        );
        check("phase.source=disk", true, &[Source::Disk { only: true }]);
    }

    /// Plays a machine whose sources answer as told, and writes down what is asked of it.
    struct Fake {
        answers: Vec<Result<(), Stop>>,
        log: Vec<String>,
    }

    impl Kernel for Fake {
        fn start_network(&mut self) {
            self.log.push("network".to_owned());
        }

        fn obtain(&mut self, source: Source) -> Result<(), Stop> {
            self.log.push(source.name().to_owned());
            self.answers.remove(0)
        }

        fn report(&mut self, source: Source, refusal: &Refusal) {
            self.log.push(format!("{} {}", source.name(), refusal.code));
        }

        fn start_serving(&mut self) {
            self.log.push("serve".to_owned());
        }
    }

    fn refused(code: &str) -> Result<(), Stop> {
        Err(Refusal::new(code, "x").into())
    }

    #[track_caller]
    fn walk(answers: Vec<Result<(), Stop>>, expected: &str) -> Outcome {
        let phases = [
            Phase::Network,
            Phase::Obtain(Source::Disk { only: false }),
            Phase::Obtain(Source::Initramfs),
            Phase::Serve,
        ];
        let mut fake = Fake {
            answers,
            log: Vec::new(),
        };
        let outcome = follow(&phases, &mut fake);
        assert_eq!(fake.log.join(", "), expected);
        outcome
    }

    #[test]
    fn the_first_good_source_is_served_and_no_other_is_touched() {
        assert_eq!(walk(vec![Ok(())], "network, disk, serve"), Outcome::Serving);
        assert_eq!(
            walk(
                vec![refused("bad-hash"), Ok(())],
                "network, disk, disk bad-hash, initramfs, serve"
            ),
            Outcome::Serving
        );
    }

    #[test]
    fn nothing_is_served_when_every_source_is_refused() {
        let code = |outcome| match outcome {
            Outcome::Fatal(refusal) => refusal.code,
            other => panic!("{other:?}"),
        };
        let log = "network, disk, disk bad-hash, initramfs, initramfs not-found";
        assert_eq!(
            code(walk(vec![refused("bad-hash"), refused("not-found")], log)),
            "bad-hash"
        );
        let log = "network, disk, disk not-found, initramfs, initramfs expired";
        assert_eq!(
            code(walk(vec![refused("not-found"), refused("expired")], log)),
            "expired"
        );
        let log = "network, disk, disk bad-hash, initramfs, initramfs expired";
        assert_eq!(
            code(walk(vec![refused("bad-hash"), refused("expired")], log)),
            "expired"
        );
    }

    #[test]
    fn a_provider_is_looked_for_when_nothing_was_there_and_not_instead_of_what_was_wrong() {
        let phases = [
            Phase::Obtain(Source::Disk { only: false }),
            Phase::Obtain(Source::Provider { search: true }),
            Phase::Serve,
        ];
        for (disk, expected) in [
            (
                "not-found",
                "disk, disk not-found, provider, provider expired",
            ),
            ("bad-hash", "disk, disk bad-hash"),
        ] {
            let mut fake = Fake {
                answers: vec![refused(disk), refused("expired")],
                log: Vec::new(),
            };
            let outcome = follow(&phases, &mut fake);
            assert_eq!(fake.log.join(", "), expected);
            assert!(matches!(outcome, Outcome::Fatal(_)), "{outcome:?}");
        }
    }

    #[test]
    fn a_request_to_end_ends_the_boot() {
        assert_eq!(
            walk(vec![Err(Stop::Ending)], "network, disk"),
            Outcome::Ending
        );
    }
}
