//! Schedules: from what is computed to how, for one machine.
//!
//! In: a `Kernel`. Out: a `Nest` with the same buffers in the same order, then scratch. Emitters decide nothing further.

use netloom_ir::Target;
use netloom_ir::kernel::{Kernel, Nest};

/// Makes every decision for a kernel.
pub fn choose(kernel: &Kernel, target: &Target) -> Nest {
    let _ = (kernel, target);
    todo!()
}
