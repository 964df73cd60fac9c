//! Several threads at one piece of work: the calling thread takes part, the first error ends all.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::cancel::{CancelToken, Stop, check};
use crate::error::{Error, Result};

/// What a member asks between pieces.
pub(crate) struct Watch<'a> {
    host: Option<&'a Stop<'a>>,
    token: &'a CancelToken,
    ended: &'a AtomicBool,
}

impl Watch<'_> {
    /// An error if the member is to end.
    pub(crate) fn check(&self) -> Result<()> {
        match self.host {
            Some(stop) => stop.check()?,
            None => check(self.token)?,
        }
        if self.ended.load(Ordering::Relaxed) { Err(Error::Cancelled) } else { Ok(()) }
    }
}

/// Runs `member` on so many threads, this one among them, until all of them return.
pub(crate) fn run(
    threads: usize,
    stop: &Stop<'_>,
    member: impl Fn(&Watch<'_>) -> Result<()> + Sync,
) -> Result<()> {
    let ended = AtomicBool::new(false);
    let first_error = Mutex::new(None);
    let token = stop.token();
    let run_one = |watch: &Watch<'_>| {
        if let Err(error) = member(watch) {
            if let Ok(mut first) = first_error.lock() {
                first.get_or_insert(error);
            }
            ended.store(true, Ordering::Relaxed);
        }
    };
    let whole = std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads)
            .map(|_| scope.spawn(|| run_one(&Watch { host: None, token, ended: &ended })))
            .collect();
        run_one(&Watch { host: Some(stop), token, ended: &ended });
        helpers.into_iter().all(|helper| helper.join().is_ok())
    });
    match first_error.into_inner() {
        Ok(Some(error)) => Err(error),
        Ok(None) if whole => Ok(()),
        _ => Err(Error::Internal("a thread of the core ended abnormally".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn the_first_error_ends_all_members_and_is_the_answer() {
        let members = AtomicUsize::new(0);
        let result = run(3, &Stop::never(), |watch| {
            if members.fetch_add(1, Ordering::SeqCst) == 1 {
                return Err(Error::Internal("first".into()));
            }
            loop {
                watch.check()?;
                std::thread::yield_now();
            }
        });
        assert_eq!(result, Err(Error::Internal("first".into())));
        assert_eq!(members.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn a_cancelled_token_ends_all_members() {
        let token = CancelToken::default();
        token.cancel();
        let stop = Stop::new(Some(token), &|| false);
        let result = run(2, &stop, |watch| {
            watch.check()?;
            Ok(())
        });
        assert_eq!(result, Err(Error::Cancelled));
    }

    #[test]
    fn the_host_can_end_the_call() {
        let stop = Stop::new(None, &|| true);
        let result = run(2, &stop, |watch| {
            loop {
                watch.check()?;
                std::thread::yield_now();
            }
        });
        assert_eq!(result, Err(Error::Cancelled));
    }
}
