//! Rotation, freshness, orders and succession: one table of cases for each, named after the attack or the rule.
//!
//! Names that begin with a TUF attack (rollback, freeze, fast-forward, mix-and-match, arbitrary installation, key
//! compromise) follow the TUF specification 1.0.34 and its conformance suite where that has the case.

mod chains;
mod statements;
mod succession;
