//! What Vulkan does not say about a device, found out by running something.

use std::sync::Arc;

use netloom_ir::kernel::{Axis, Bind, Buffer, BufferId, Exprs, Nest, Prim, Role, Stmt};
use netloom_ir::target::TargetKind;
use netloom_ir::{DType, Scalar, Tensor, Type};

use super::Error;
use super::device::Device;
use super::runner::{Code, Runner};
use crate::plan::{Base, KernelId, Place, Plan, Port, Step};

/// Finds out whether the device's multiplication with addition rounds once, for `f32` or `f64`: Vulkan lets it round twice.
///
/// # Errors
/// If the device refuses.
pub fn fuses(device: &Arc<Device>, dtype: DType) -> Result<bool, Error> {
    // The last bit of x², which a product rounded by itself loses.
    let half = match dtype {
        DType::F64 => 27,
        _ => 12,
    };
    let x = 1.0 + f64::powi(2.0, -half);
    let z = -(1.0 + f64::powi(2.0, 1 - half));
    let code = Code::new(device, &[one_fma(dtype)], vec![one_fma_plan(dtype)], &[], 0)?;
    let mut runner = Runner::new(Arc::new(code))?;
    let scalar = |value| Tensor::scalar(dtype, Scalar::Float(value));
    let mut result = [scalar(0.0)];
    runner.run(0, &[&scalar(x), &scalar(z)], &mut result)?;
    Ok(result[0].get(0).as_f64() == f64::powi(2.0, -2 * half))
}

/// `y = x · x + z`
fn one_fma(dtype: DType) -> Nest {
    let mut exprs = Exprs::default();
    let once = exprs.add_axis(1);
    let [x, z] = [0, 1].map(|number| exprs.load(BufferId(number), dtype, vec![], false));
    let value = exprs.prim(Prim::Fma, dtype, &[x, x, z]);
    let extent = exprs.int(1);
    let buffer = |name: &str, role| Buffer {
        name: name.to_owned(),
        ty: Type::new(dtype, []),
        role,
    };
    let store = Stmt::Store {
        buffer: BufferId(2),
        index: vec![],
        value,
    };
    Nest {
        name: "one_fma".to_owned(),
        kind: TargetKind::Vulkan,
        axes: vec![Axis {
            name: "once".to_owned(),
            extent: 1,
        }],
        buffers: vec![
            buffer("x", Role::Input),
            buffer("z", Role::Input),
            buffer("y", Role::Output),
        ],
        layouts: Vec::new(),
        locals: Vec::new(),
        exprs,
        body: vec![Stmt::Loop {
            axis: once,
            extent,
            bind: Bind::Workers,
            body: vec![store],
        }],
    }
}

fn one_fma_plan(dtype: DType) -> Plan {
    let port = |name: &str| Port {
        name: name.to_owned(),
        ty: Type::new(dtype, []),
    };
    let place = |base| Place {
        base,
        offset: 0,
        strides: Vec::new(),
        bytes: dtype.size_bytes(),
    };
    Plan {
        name: "one_fma".to_owned(),
        inputs: vec![port("x"), port("z")],
        outputs: vec![port("y")],
        steps: vec![Step::Kernel {
            kernel: KernelId(0),
            buffers: [Base::Input(0), Base::Input(1), Base::Output(0)].map(place).to_vec(),
            nodes: Vec::new(),
        }],
        shared_bytes: 0,
        worker_bytes: 0,
        parallel: false,
    }
}
