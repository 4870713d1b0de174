//! How the appliance replaces itself: what `init` does for the state machine of crate `upgrade`.
//!
//! | module | does |
//! | --- | --- |
//! | `home` | finds the disk whose ledger and slots belong to what runs |
//! | `boot` | what a machine finds out when it starts |
//! | `disk` | all that PID 1 asks of that disk, with deadlines |
//! | `ledger` | the two sectors that say which image a machine boots |
//! | `slots` | images in the slots: written, read back, read |
//! | `raw`, `worker` | past every cache, and never in the way of the main loop |

pub(crate) mod boot;
pub(crate) mod disk;
pub(crate) mod home;
pub(crate) mod ledger;
pub(crate) mod raw;
pub(crate) mod slots;
pub(crate) mod worker;
