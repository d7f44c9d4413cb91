//! A pool of workers that run one function together (SPMD).
//!
//! Every worker enters the function once a call and takes its share by number, so a call costs one wake-up, not one a kernel; the
//! function's own barriers do the rest. A worker spins for [`SPIN`] after a call before it parks: a barrier between awake cores
//! takes 38 ns, waking a parked thread 8 µs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use super::Error;

/// How long an idle worker stays awake: a few times what waking it would cost.
const SPIN: Duration = Duration::from_micros(50);

/// After this many looks at a flag a waiting thread lets another run, for there may be more workers than cores.
const SPINS_BEFORE_YIELD: usize = 4096;

/// Called by compiled code that has waited at a barrier for long.
pub extern "C" fn yield_to_others() {
    thread::yield_now();
}

/// What the workers share.
struct Shared {
    /// Counts calls; a change is the signal to start. The lowest bit is unused.
    epoch: AtomicUsize,
    /// The task of the present call, valid from the change of `epoch` until `running` is 0.
    task: AtomicPtr<Task<'static>>,
    /// Workers other than the caller that have not finished the present call.
    running: AtomicUsize,
    /// Set once, when the pool is dropped.
    closing: AtomicBool,
}

/// A function of the worker's number.
type Task<'a> = &'a (dyn Fn(usize) + Sync);

/// Threads that wait to run a function together with the caller.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<(Thread, Option<JoinHandle<()>>)>,
}

impl Pool {
    /// A pool in which `workers` threads run, the caller's included.
    ///
    /// # Errors
    /// If the system does not start that many.
    pub fn new(workers: usize) -> Result<Pool, Error> {
        let shared = Arc::new(Shared {
            epoch: AtomicUsize::new(0),
            task: AtomicPtr::new(std::ptr::null_mut()),
            running: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
        });
        let mut pool = Pool {
            shared,
            workers: Vec::new(),
        };
        for number in 1..workers {
            let shared = Arc::clone(&pool.shared);
            let builder = thread::Builder::new().name(format!("netloom-{number}"));
            let handle = builder
                .spawn(move || work(&shared, number))
                .map_err(|reason| Error::Thread {
                    number: number + 1,
                    workers,
                    reason: reason.to_string(),
                })?;
            pool.workers.push((handle.thread().clone(), Some(handle)));
        }
        Ok(pool)
    }

    /// The number of workers, the caller included.
    pub fn workers(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `task(0)` here and `task(1)`, `task(2)` … on the others, and returns when all have returned.
    pub fn run(&mut self, task: &(dyn Fn(usize) + Sync)) {
        if self.workers.is_empty() {
            return task(0);
        }
        let mut task: Task<'_> = task;
        let pointer: *mut Task<'_> = &mut task;
        self.shared.running.store(self.workers.len(), Ordering::Relaxed);
        self.shared.task.store(pointer.cast(), Ordering::Relaxed);
        self.shared.epoch.fetch_add(1, Ordering::Release);
        for (worker, _) in &self.workers {
            worker.unpark();
        }
        task(0);
        // The borrow of `task` ends with this function, so no worker may still use it when this returns.
        let mut spins = 0;
        while self.shared.running.load(Ordering::Acquire) > 0 {
            spins += 1;
            if spins % SPINS_BEFORE_YIELD == 0 {
                thread::yield_now();
            }
            std::hint::spin_loop();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Relaxed);
        self.shared.epoch.fetch_add(1, Ordering::Release);
        for (worker, handle) in &mut self.workers {
            worker.unpark();
            if let Some(handle) = handle.take() {
                // A worker that panicked has already said so.
                let _ = handle.join();
            }
        }
    }
}

/// The life of one worker.
fn work(shared: &Shared, number: usize) {
    let mut seen = 0;
    loop {
        let idle_since = Instant::now();
        while shared.epoch.load(Ordering::Acquire) == seen {
            if idle_since.elapsed() < SPIN {
                std::hint::spin_loop();
            } else {
                // Between the check above and here an unpark may have come; `park` then returns at once.
                thread::park();
            }
        }
        seen = seen.wrapping_add(1);
        if shared.closing.load(Ordering::Relaxed) {
            return;
        }
        let task = shared.task.load(Ordering::Relaxed);
        // SAFETY: `Pool::run` stored a pointer to a task on its stack before it advanced `epoch`, which we have seen with acquire
        // ordering, and does not return before we count `running` down.
        let task: Task<'_> = unsafe { *task };
        task(number);
        shared.running.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn every_worker_runs_every_task_once() {
        for workers in [1, 2, 3, 7] {
            let mut pool = Pool::new(workers).unwrap();
            for _ in 0..200 {
                let ran = Mutex::new(vec![0; workers]);
                pool.run(&|number| ran.lock().unwrap()[number] += 1);
                assert_eq!(ran.into_inner().unwrap(), vec![1; workers]);
            }
        }
    }
}
