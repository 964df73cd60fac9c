//! Stopping a running call: a token that any thread may set, and a question that the calling thread asks its host.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// Asks a running call to stop at its next piece.
#[derive(Clone, Debug, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// Asks every call that holds this token to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether `cancel` was called.
    pub fn cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// How often at most the host is asked: often enough for a key press, seldom enough to cost nothing.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// What a call asks between pieces. `poll` is the host's own question (has a signal come?), asked by the calling
/// thread alone.
pub struct Stop<'a> {
    token: CancelToken,
    poll: &'a dyn Fn() -> bool,
    asked: Cell<Instant>,
}

impl<'a> Stop<'a> {
    /// Watches the token, if there is one, and asks `poll` now and then.
    pub fn new(token: Option<CancelToken>, poll: &'a dyn Fn() -> bool) -> Self {
        Self { token: token.unwrap_or_default(), poll, asked: Cell::new(Instant::now()) }
    }

    /// Never stops.
    pub fn never() -> Stop<'static> {
        Stop::new(None, &|| false)
    }

    /// An error if the call is to end.
    pub fn check(&self) -> Result<()> {
        if self.asked.get().elapsed() >= POLL_INTERVAL { self.ask() } else { check(&self.token) }
    }

    /// The same, asking the host at once: for a call that a signal has just woken.
    pub(crate) fn ask(&self) -> Result<()> {
        self.asked.set(Instant::now());
        if (self.poll)() { Err(Error::Cancelled) } else { check(&self.token) }
    }

    /// What a helper thread watches, which cannot ask the host.
    pub(crate) fn token(&self) -> &CancelToken {
        &self.token
    }
}

/// An error if the token is set.
pub(crate) fn check(token: &CancelToken) -> Result<()> {
    if token.cancelled() { Err(Error::Cancelled) } else { Ok(()) }
}
