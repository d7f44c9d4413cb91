//! From a region to its kernel: each op says what its value is at an index, and this asks.

use std::cell::RefCell;
use std::ops::{Add, Div, Mul, Neg, Sub};

use super::{AxisId, Combine, ExprId, Exprs, Prim};
use crate::dtype::{DType, Scalar};
use crate::tensor::Type;

/// What an op's [`Rules::kernel`](crate::ops::Rules::kernel) is given: the index wanted, and access to its operands' values.
pub struct KernelCx<'a> {
    exprs: &'a RefCell<Exprs>,
    index: Vec<ExprId>,
}

impl<'a> KernelCx<'a> {
    /// The index at which the result is wanted, one `i64` an axis; within the result's shape.
    pub fn index(&self) -> &[ExprId] {
        &self.index
    }

    /// The type of the result.
    pub fn out_type(&self) -> &Type {
        todo!()
    }

    /// The number of operands.
    pub fn arg_count(&self) -> usize {
        todo!()
    }

    /// The type of operand `arg`.
    pub fn arg_type(&self, arg: usize) -> &Type {
        let _ = arg;
        todo!()
    }

    /// The value of operand `arg` at an index that is within its shape.
    pub fn arg(&mut self, arg: usize, index: Vec<ExprId>) -> ExprId {
        let _ = (arg, index);
        todo!()
    }

    /// The value of operand `arg` at an index, or zero where the index is outside its shape.
    pub fn arg_or_zero(&mut self, arg: usize, index: Vec<ExprId>) -> ExprId {
        let _ = (arg, index);
        todo!()
    }

    /// A new axis to fold over, taking the values 0 to `extent` - 1.
    pub fn fold_axis(&mut self, extent: usize) -> AxisId {
        let _ = extent;
        todo!()
    }

    /// Combines `value` over axes made by [`KernelCx::fold_axis`].
    pub fn fold(&mut self, with: Combine, over: Vec<AxisId>, value: ExprId) -> ExprId {
        self.exprs.borrow_mut().fold(with, over, value)
    }

    /// The value of a fold axis.
    pub fn axis(&self, axis: AxisId) -> X<'a> {
        self.x(self.exprs.borrow_mut().axis(axis))
    }

    /// An `i64` constant.
    pub fn int(&self, value: i64) -> X<'a> {
        self.x(self.exprs.borrow_mut().int(value))
    }

    /// A constant.
    pub fn constant(&self, dtype: DType, value: Scalar) -> X<'a> {
        self.x(self.exprs.borrow_mut().constant(dtype, value))
    }

    /// An expression as a handle with operators.
    pub fn x(&self, id: ExprId) -> X<'a> {
        X { exprs: self.exprs, id }
    }
}

/// An expression under construction: a handle with operators, for map bodies and index arithmetic.
#[derive(Clone, Copy)]
pub struct X<'k> {
    exprs: &'k RefCell<Exprs>,
    id: ExprId,
}

impl<'k> X<'k> {
    /// A handle to an expression.
    pub fn new(exprs: &'k RefCell<Exprs>, id: ExprId) -> X<'k> {
        X { exprs, id }
    }

    /// The expression.
    pub fn id(self) -> ExprId {
        self.id
    }

    /// The type of its value.
    pub fn dtype(self) -> DType {
        self.exprs.borrow().dtype(self.id)
    }

    /// A constant of this value's type.
    pub fn lit(self, value: f64) -> X<'k> {
        self.constant(Scalar::from_f64(value, self.dtype()))
    }

    /// An integer constant of this value's type.
    pub fn int(self, value: i128) -> X<'k> {
        self.constant(Scalar::Int(value))
    }

    fn constant(self, value: Scalar) -> X<'k> {
        let dtype = self.dtype();
        X {
            id: self.exprs.borrow_mut().constant(dtype, value),
            ..self
        }
    }

    /// A primitive with this and further operands, its result of type `dtype`.
    pub fn prim(self, prim: Prim, dtype: DType, rest: &[X<'k>]) -> X<'k> {
        let args: Vec<ExprId> = std::iter::once(self.id).chain(rest.iter().map(|x| x.id)).collect();
        X {
            id: self.exprs.borrow_mut().prim(prim, dtype, &args),
            ..self
        }
    }

    fn same(self, prim: Prim, rest: &[X<'k>]) -> X<'k> {
        self.prim(prim, self.dtype(), rest)
    }

    /// `self * b + c`, rounded once.
    pub fn fma(self, b: X<'k>, c: X<'k>) -> X<'k> {
        self.same(Prim::Fma, &[b, c])
    }

    /// [`Prim::Max`]: `self > b ? self : b`.
    pub fn max(self, b: X<'k>) -> X<'k> {
        self.same(Prim::Max, &[b])
    }

    /// [`Prim::Min`]: `self < b ? self : b`.
    pub fn min(self, b: X<'k>) -> X<'k> {
        self.same(Prim::Min, &[b])
    }

    /// Square root.
    pub fn sqrt(self) -> X<'k> {
        self.same(Prim::Sqrt, &[])
    }

    /// Absolute value.
    pub fn abs(self) -> X<'k> {
        self.same(Prim::Abs, &[])
    }

    /// Rounds down.
    pub fn floor(self) -> X<'k> {
        self.same(Prim::Floor, &[])
    }

    /// Rounds up.
    pub fn ceil(self) -> X<'k> {
        self.same(Prim::Ceil, &[])
    }

    /// Rounds towards zero.
    pub fn trunc(self) -> X<'k> {
        self.same(Prim::Trunc, &[])
    }

    /// Rounds to nearest, ties to even.
    pub fn nearest(self) -> X<'k> {
        self.same(Prim::Nearest, &[])
    }

    /// The remainder of integer division, with the sign of `self`.
    pub fn rem(self, b: X<'k>) -> X<'k> {
        self.same(Prim::Rem, &[b])
    }

    /// `self == b`.
    pub fn eq(self, b: X<'k>) -> X<'k> {
        self.prim(Prim::Eq, DType::Bool, &[b])
    }

    /// `self < b`.
    pub fn lt(self, b: X<'k>) -> X<'k> {
        self.prim(Prim::Lt, DType::Bool, &[b])
    }

    /// `self <= b`.
    pub fn le(self, b: X<'k>) -> X<'k> {
        self.prim(Prim::Le, DType::Bool, &[b])
    }

    /// Whether this is NaN.
    pub fn is_nan(self) -> X<'k> {
        self.eq(self).not()
    }

    /// Bitwise (or logical) and.
    pub fn and(self, b: X<'k>) -> X<'k> {
        self.same(Prim::And, &[b])
    }

    /// Bitwise (or logical) or.
    pub fn or(self, b: X<'k>) -> X<'k> {
        self.same(Prim::Or, &[b])
    }

    /// Bitwise (or logical) exclusive or.
    pub fn xor(self, b: X<'k>) -> X<'k> {
        self.same(Prim::Xor, &[b])
    }

    /// Bitwise (or logical) complement.
    pub fn not(self) -> X<'k> {
        match self.dtype() {
            DType::Bool => self.xor(self.constant(Scalar::Bool(true))),
            _ => self.xor(self.int(-1)),
        }
    }

    /// `self << b`.
    pub fn shl(self, b: X<'k>) -> X<'k> {
        self.same(Prim::Shl, &[b])
    }

    /// `self >> b`.
    pub fn shr(self, b: X<'k>) -> X<'k> {
        self.same(Prim::Shr, &[b])
    }

    /// For a `bool`: `self ? yes : no`.
    pub fn select(self, yes: X<'k>, no: X<'k>) -> X<'k> {
        self.prim(Prim::Select, yes.dtype(), &[yes, no])
    }

    /// Converts to a type.
    pub fn cast(self, dtype: DType) -> X<'k> {
        if self.dtype() == dtype {
            self
        } else {
            self.prim(Prim::Cast, dtype, &[])
        }
    }

    /// The same bits as another type of the same size.
    pub fn bitcast(self, dtype: DType) -> X<'k> {
        if self.dtype() == dtype {
            self
        } else {
            self.prim(Prim::Bitcast, dtype, &[])
        }
    }
}

/// Implements a binary operator for handles, and for a handle and a number on either side.
macro_rules! operator {
    ($trait:ident, $method:ident, $prim:expr) => {
        impl<'k> $trait for X<'k> {
            type Output = X<'k>;
            fn $method(self, other: X<'k>) -> X<'k> {
                self.same($prim, &[other])
            }
        }

        impl<'k> $trait<f64> for X<'k> {
            type Output = X<'k>;
            fn $method(self, other: f64) -> X<'k> {
                self.same($prim, &[self.lit(other)])
            }
        }

        impl<'k> $trait<X<'k>> for f64 {
            type Output = X<'k>;
            fn $method(self, other: X<'k>) -> X<'k> {
                other.lit(self).same($prim, &[other])
            }
        }
    };
}
operator!(Add, add, Prim::Add);
operator!(Sub, sub, Prim::Sub);
operator!(Mul, mul, Prim::Mul);
operator!(Div, div, Prim::Div);

impl<'k> Neg for X<'k> {
    type Output = X<'k>;
    fn neg(self) -> X<'k> {
        self.same(Prim::Neg, &[])
    }
}
