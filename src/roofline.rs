//! What a machine can do at most, measured: operations and bytes a second. No kernel is faster than both allow, so what it takes beyond that is
//! lost (S. Williams, A. Waterman and D. Patterson, "Roofline: an insightful visual performance model for multicore architectures", 2009).

use std::sync::Arc;
use std::time::Duration;

use netloom_ir::program::Program;
use netloom_ir::{Builder, DType, Tensor, Val};

use crate::compile::compile;
use crate::cpu::peak::peak;
use crate::device::Device;
use crate::error::Error;
use crate::profile;
use crate::session::Session;

/// The limits of a device with so many threads.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Floating-point operations of `f32` a second, where fused multiply-adds are all that is done; `None` where no code measures it.
    pub flops: Option<f64>,
    /// Bytes read and written a second by the fastest of some simple kernels whose tensors are larger than most caches.
    pub bytes: f64,
}

/// Elements of the tensors that are streamed: 64 MiB.
const STREAMED: usize = 16 << 20;
/// So long it is streamed; the fastest run counts.
const AT_LEAST: Duration = Duration::from_millis(50);
/// What is computed from it: as much, and next to nothing. lavapipe writes element by element, and reads four at once.
const STREAMS: &[Stream] = &[|x| x + 1.0, |x| x.sum_all()];

type Stream = for<'b> fn(Val<'b>) -> Val<'b>;

impl Limits {
    /// Measures them, in about a tenth of a second.
    ///
    /// # Errors
    /// If there is no code or no memory for it.
    pub fn measure(device: &Device, threads: usize) -> Result<Limits, Error> {
        let flops = match device {
            Device::Cpu(cpu) => peak(cpu)?.map(|one| one * threads as f64),
            #[cfg(feature = "vulkan")]
            Device::Vulkan(_) => None,
        };
        let mut bytes = 0f64;
        for streamed in STREAMS {
            bytes = bytes.max(rate(device, threads, *streamed)?);
        }
        Ok(Limits { flops, bytes })
    }

    /// The seconds that a kernel takes at least: for its operations or for its bytes, whichever is more. One whose tensors lie in a cache may
    /// move them faster, and one that computes a convolution by Winograd's algorithm does fewer operations.
    pub fn seconds(&self, flops: f64, bytes: usize) -> f64 {
        let computing = self.flops.map_or(0.0, |rate| flops / rate);
        computing.max(bytes as f64 / self.bytes)
    }
}

/// Bytes a second of what is computed from a large tensor, by the clock by which kernels are measured: a run on Vulkan also copies tensors there and back.
fn rate(device: &Device, threads: usize, streamed: Stream) -> Result<f64, Error> {
    let b = Builder::new();
    let graph = b.finish([("y", streamed(b.input("x", DType::F32, [STREAMED])))])?;
    let program = Program::pure("stream", graph);
    let session = Session::new(Arc::new(compile(&program, device)?), threads, 0)?;
    let x = Tensor::zeros(DType::F32, [STREAMED]);
    let costs = profile::kernels(&program, "stream", &session, &[&x], AT_LEAST)?;
    let bytes: usize = costs.iter().map(|cost| cost.bytes).sum();
    let took: Duration = costs.iter().map(|cost| cost.time).sum();
    Ok(bytes as f64 / took.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greater_of_both_limits_counts() {
        let limits = Limits {
            flops: Some(100.0),
            bytes: 10.0,
        };
        assert_eq!(limits.seconds(200.0, 10), 2.0);
        assert_eq!(limits.seconds(200.0, 30), 3.0);
        let unknown = Limits { flops: None, ..limits };
        assert_eq!(unknown.seconds(200.0, 10), 1.0);
    }
}
