//! A step of training allocates nothing.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use netloom::Session;
use netloom::ir::sample;
use netloom::nn::training::TRAIN_STEP;
use netloom::nn::zoo;
use support::shared_step;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, counting.
struct Counting;

// SAFETY: every call is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's guarantees are the system allocator's requirements.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(address, layout) }
    }

    unsafe fn realloc(&self, address: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(address, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The only test of this file: another beside it would be counted too.
#[test]
fn steps_of_training_allocate_nothing() {
    for name in ["mlp", "lenet"] {
        let net = zoo::find(name).expect("a network");
        let batch = 4;
        let executable = shared_step(net, batch);
        let x = sample::tensor(&net.input(batch), &mut 1);
        let y = sample::tensor(&net.target(batch), &mut 2);
        for threads in [1, 2] {
            let mut session = Session::new(Arc::clone(&executable), threads, 0).expect("memory");
            let mut loss = session.results(TRAIN_STEP).expect("an entry");
            let mut run = || session.run(TRAIN_STEP, &[&x, &y], &mut loss).expect("the tensors fit");
            run();
            let before = ALLOCATIONS.load(Ordering::Relaxed);
            (0..3).for_each(|_| run());
            let count = ALLOCATIONS.load(Ordering::Relaxed) - before;
            assert_eq!(count, 0, "allocations in three steps of {name} with {threads} workers");
        }
    }
}
