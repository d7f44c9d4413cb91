//! Convolution and pooling over `[batch, channels, spatial…]`.

use netloom_ir::builder::Val;
use netloom_ir::ops;
use netloom_ir::ops::pool::Window;

use super::Layer;
use crate::nn::init::Initialiser;
use crate::nn::scope::Scope;

/// Convolution in as many dimensions as `kernel` has. `weight` is `[filters, channels / groups, kernel…]`, `bias` `[filters]`.
#[derive(Clone, Debug)]
pub struct Conv {
    /// The number of output channels.
    pub filters: usize,
    /// The kernel's extent along each spatial axis.
    pub kernel: Vec<usize>,
    /// The distance between windows.
    pub stride: Vec<usize>,
    /// Zeros on both sides.
    pub padding: Vec<usize>,
    /// The distance between kernel elements.
    pub dilation: Vec<usize>,
    /// Channel groups.
    pub groups: usize,
    /// Whether there is a bias.
    pub bias: bool,
    /// How the weight starts.
    pub weight_init: Initialiser,
    /// How the bias starts.
    pub bias_init: Initialiser,
}

impl Conv {
    /// One-dimensional, stride 1, no padding, with a bias; weights start He uniform.
    pub fn d1(filters: usize, kernel: usize) -> Conv {
        Conv::new(filters, &[kernel])
    }

    /// Two-dimensional with a square kernel, stride 1, no padding, with a bias; weights start He uniform.
    pub fn d2(filters: usize, kernel: usize) -> Conv {
        Conv::new(filters, &[kernel, kernel])
    }

    /// With any kernel, stride 1, no padding, with a bias; weights start He uniform.
    pub fn new(filters: usize, kernel: &[usize]) -> Conv {
        let ones = vec![1; kernel.len()];
        Conv {
            filters,
            kernel: kernel.to_vec(),
            stride: ones.clone(),
            padding: vec![0; kernel.len()],
            dilation: ones,
            groups: 1,
            bias: true,
            weight_init: Initialiser::HeUniform,
            bias_init: Initialiser::Zeros,
        }
    }

    /// The same with this stride along every axis.
    #[must_use]
    pub fn stride(mut self, stride: usize) -> Conv {
        self.stride.fill(stride);
        self
    }

    /// The same with this many zeros on both sides of every axis.
    #[must_use]
    pub fn padding(mut self, padding: usize) -> Conv {
        self.padding.fill(padding);
        self
    }

    /// The same in this many channel groups: each sees its share of the input channels and gives its share of the filters.
    #[must_use]
    pub fn groups(self, groups: usize) -> Conv {
        Conv { groups, ..self }
    }

    /// The same without bias.
    #[must_use]
    pub fn without_bias(mut self) -> Conv {
        self.bias = false;
        self
    }

    /// The same with weights that start so.
    #[must_use]
    pub fn init(self, weight_init: Initialiser) -> Conv {
        Conv { weight_init, ..self }
    }
}

impl Layer for Conv {
    fn describe(&self) -> String {
        let size: Vec<String> = self.kernel.iter().map(usize::to_string).collect();
        format!("Conv({}, {})", self.filters, size.join("×"))
    }

    #[track_caller]
    fn build<'g>(&self, scope: &Scope<'g>, x: Val<'g>) -> Val<'g> {
        let shape = x.shape();
        if x.is_poison() {
            return x;
        }
        if shape.len() != self.kernel.len() + 2 || self.groups == 0 || !shape[1].is_multiple_of(self.groups) {
            return scope.builder().problem(format!(
                "conv: a kernel of {} axes in {} groups takes [batch, channels, spatial…] with channels divisible by the groups, found {}",
                self.kernel.len(),
                self.groups,
                x.ty()
            ));
        }
        let weight_shape: Vec<usize> = [self.filters, shape[1] / self.groups]
            .into_iter()
            .chain(self.kernel.iter().copied())
            .collect();
        let weight = scope.parameter("weight", weight_shape, &self.weight_init);
        let padding: Vec<i64> = self.padding.iter().map(|&zeros| zeros as i64).collect();
        let y = x.conv(
            weight,
            ops::Conv {
                stride: self.stride.clone(),
                pad_low: padding.clone(),
                pad_high: padding,
                kernel_dilation: self.dilation.clone(),
                groups: self.groups,
                ..ops::Conv::unit(self.kernel.len())
            },
        );
        if !self.bias {
            return y;
        }
        let mut channels = vec![1; self.kernel.len() + 1];
        channels[0] = self.filters;
        y + scope
            .parameter("bias", [self.filters], &self.bias_init)
            .reshape(channels)
    }
}

/// What a [`Pool`] gives for each window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolOf {
    /// The greatest element.
    Max,
    /// The mean; padding counts as zeros.
    Average,
}

/// Pooling over windows of the spatial axes.
#[derive(Clone, Debug)]
pub struct Pool {
    /// What is computed.
    pub of: PoolOf,
    /// The window's extent along each spatial axis.
    pub size: Vec<usize>,
    /// The distance between windows.
    pub stride: Vec<usize>,
    /// Padding on both sides.
    pub padding: Vec<usize>,
    /// Whether a last window that only begins inside the padded input counts too. What hangs over is padding.
    pub ceil: bool,
}

impl Pool {
    /// Over windows of this size side by side, in as many dimensions as `size` has.
    pub fn new(of: PoolOf, size: &[usize]) -> Pool {
        Pool {
            of,
            size: size.to_vec(),
            stride: size.to_vec(),
            padding: vec![0; size.len()],
            ceil: false,
        }
    }

    /// Two-dimensional max pooling with windows side by side.
    pub fn max2(size: usize) -> Pool {
        Pool::new(PoolOf::Max, &[size, size])
    }

    /// Two-dimensional average pooling with windows side by side.
    pub fn average2(size: usize) -> Pool {
        Pool::new(PoolOf::Average, &[size, size])
    }

    /// The same with another distance between windows.
    #[must_use]
    pub fn stride(mut self, stride: usize) -> Pool {
        self.stride.fill(stride);
        self
    }

    /// The same with padding on both sides of every axis.
    #[must_use]
    pub fn padding(mut self, padding: usize) -> Pool {
        self.padding.fill(padding);
        self
    }

    /// The same with the number of windows rounded up.
    #[must_use]
    pub fn ceil(self) -> Pool {
        Pool { ceil: true, ..self }
    }

    /// Padding after an axis of this extent.
    fn padding_after(&self, axis: usize, extent: usize) -> usize {
        let (size, stride, padding) = (self.size[axis], self.stride[axis], self.padding[axis]);
        let room = (extent + 2 * padding).checked_sub(size);
        match room {
            Some(room) if self.ceil && stride > 0 => {
                let last = room.div_ceil(stride) * stride;
                // A window that began in the padding after the input would hold nothing.
                let last = if last >= extent + padding { last - stride } else { last };
                (last + size).saturating_sub(extent + padding)
            }
            // What does not fit is said by the op.
            _ => padding,
        }
    }
}

impl Layer for Pool {
    fn describe(&self) -> String {
        let size: Vec<String> = self.size.iter().map(usize::to_string).collect();
        format!("{:?}Pool({})", self.of, size.join("×"))
    }

    #[track_caller]
    fn build<'g>(&self, _: &Scope<'g>, x: Val<'g>) -> Val<'g> {
        if x.is_poison() {
            return x;
        }
        let shape = x.shape();
        let spatial = &shape[shape.len().saturating_sub(self.size.len())..];
        let after = spatial.iter().enumerate();
        let window = Window {
            size: self.size.clone(),
            stride: self.stride.clone(),
            pad_low: self.padding.clone(),
            pad_high: after.map(|(axis, &extent)| self.padding_after(axis, extent)).collect(),
            dilation: vec![1; self.size.len()],
        };
        match self.of {
            PoolOf::Max => x.max_pool(window),
            PoolOf::Average => x.avg_pool_with_padding(window),
        }
    }
}

/// One value for each channel, over all spatial axes: `[batch, channels, spatial…]` to `[batch, channels]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GlobalPool(pub PoolOf);

impl Layer for GlobalPool {
    fn describe(&self) -> String {
        format!("Global{:?}Pool", self.0)
    }

    #[track_caller]
    fn build<'g>(&self, scope: &Scope<'g>, x: Val<'g>) -> Val<'g> {
        if !x.is_poison() && x.rank() < 3 {
            return scope.builder().problem(format!(
                "global pool: takes [batch, channels, spatial…], found {}",
                x.ty()
            ));
        }
        let spatial: Vec<usize> = (2..x.rank()).collect();
        match self.0 {
            PoolOf::Max => x.max_over(spatial),
            PoolOf::Average => x.mean(spatial),
        }
    }
}

/// The mean of each of `size` shares of the spatial axes, whatever their extents: share `i` of an axis of extent `n` in `s` shares
/// begins at `⌊i n / s⌋` and ends before `⌈(i + 1) n / s⌉`, so neighbours may overlap (PyTorch's rule).
#[derive(Clone, Debug)]
pub struct AdaptiveAveragePool {
    /// The number of shares along each spatial axis.
    pub size: Vec<usize>,
}

impl AdaptiveAveragePool {
    /// As many shares along each spatial axis.
    pub fn new(size: &[usize]) -> AdaptiveAveragePool {
        AdaptiveAveragePool { size: size.to_vec() }
    }
}

impl Layer for AdaptiveAveragePool {
    fn describe(&self) -> String {
        let size: Vec<String> = self.size.iter().map(usize::to_string).collect();
        format!("AdaptiveAveragePool({})", size.join("×"))
    }

    #[track_caller]
    fn build<'g>(&self, scope: &Scope<'g>, x: Val<'g>) -> Val<'g> {
        if x.is_poison() {
            return x;
        }
        let shape = x.shape();
        if shape.len() != self.size.len() + 2 || shape.contains(&0) || self.size.contains(&0) {
            return scope.builder().problem(format!(
                "adaptive pool: {} takes [batch, channels, spatial…] with as many spatial axes, found {x}",
                self.describe()
            ));
        }
        (self.size.iter().zip(2..)).fold(x, |x, (&shares, axis)| shares_of(x, axis, shares))
    }
}

/// The means of shares of an axis; see [`AdaptiveAveragePool`].
fn shares_of(x: Val<'_>, axis: usize, shares: usize) -> Val<'_> {
    let extent = x.shape()[axis];
    if extent == shares {
        return x;
    }
    if extent.is_multiple_of(shares) {
        let mut split = x.shape();
        split.splice(axis..=axis, [shares, extent / shares]);
        return x.reshape(split).mean([axis + 1]);
    }
    let mean = |share: usize| {
        let (start, end) = (share * extent / shares, ((share + 1) * extent).div_ceil(shares));
        x.slice(axis, start, end).mean([axis])
    };
    let means: Vec<Val<'_>> = (0..shares).map(mean).collect();
    Val::stack(&means, axis)
}
