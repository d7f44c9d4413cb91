//! Which cooperative matrices a device has.
//!
//! Of `f16` alone. Those of `bf16` need `VK_KHR_shader_bfloat16` (Vulkan 1.4.311, with `SPV_KHR_bfloat16`), which makes the list of shapes name that type. The newest vulkano,
//! 0.35.2, is made from the registry of 1.3.281: it knows neither the extension nor its features, and so opens no device with them; nor has the lavapipe of Mesa 26.2
//! it, on which such code could be run. Contractions of `bf16` are computed in `f32`, whatever is asked for.

use ash::vk;
use netloom_ir::target::Matrices;
use vulkano::VulkanObject;
use vulkano::device::physical::PhysicalDevice;
use vulkano::shader::ShaderStages;

/// Matrices of halves that a subgroup multiplies at once and sums in `f32`, if the device has them; of several the largest.
pub fn of_halves(device: &PhysicalDevice) -> Option<Matrices> {
    let (has, limits) = (device.supported_features(), device.properties());
    let stages = limits.cooperative_matrix_supported_stages.unwrap_or_default();
    if !has.cooperative_matrix || !has.vulkan_memory_model || !stages.intersects(ShaderStages::COMPUTE) {
        return None;
    }
    let shapes = shapes(device).into_iter();
    let shapes = shapes.filter_map(|shape| taken(&shape, limits.max_storage_buffer_range));
    shapes.max_by_key(|shape| (shape.rows * shape.columns, shape.depth))
}

/// A shape as schedules know it, if it is one of theirs.
fn taken(shape: &vk::CooperativeMatrixPropertiesKHR<'_>, bytes: u32) -> Option<Matrices> {
    let (half, single) = (vk::ComponentTypeKHR::FLOAT16, vk::ComponentTypeKHR::FLOAT32);
    let types = [shape.a_type, shape.b_type, shape.c_type, shape.result_type];
    let is_taken = types == [half, half, single, single] && shape.scope == vk::ScopeKHR::SUBGROUP;
    is_taken.then_some(Matrices {
        rows: shape.m_size as usize,
        columns: shape.n_size as usize,
        depth: shape.k_size as usize,
        bytes: bytes as usize,
    })
}

/// Every shape; none where the driver does not tell.
fn shapes(device: &PhysicalDevice) -> Vec<vk::CooperativeMatrixPropertiesKHR<'static>> {
    let functions = device.instance().fns();
    let list = functions
        .khr_cooperative_matrix
        .get_physical_device_cooperative_matrix_properties_khr;
    let mut count = 0;
    // SAFETY: the device is alive and has the extension of this function, as its feature says; without a list only the count is written.
    let counted = unsafe { list(device.handle(), &mut count, std::ptr::null_mut()) };
    let mut shapes = vec![vk::CooperativeMatrixPropertiesKHR::default(); count as usize];
    // SAFETY: as above; there is room for as many shapes as are said to be.
    let listed = unsafe { list(device.handle(), &mut count, shapes.as_mut_ptr()) };
    shapes.truncate(count as usize);
    match (counted, listed) {
        (vk::Result::SUCCESS, vk::Result::SUCCESS) => shapes,
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_halves_that_a_subgroup_sums_in_f32_are_taken() {
        let (half, single) = (vk::ComponentTypeKHR::FLOAT16, vk::ComponentTypeKHR::FLOAT32);
        let shape = |sums, scope| vk::CooperativeMatrixPropertiesKHR {
            m_size: 16,
            n_size: 8,
            k_size: 32,
            a_type: half,
            b_type: half,
            c_type: sums,
            result_type: sums,
            scope,
            ..vk::CooperativeMatrixPropertiesKHR::default()
        };
        let matrices = Matrices {
            rows: 16,
            columns: 8,
            depth: 32,
            bytes: 1000,
        };
        assert_eq!(taken(&shape(single, vk::ScopeKHR::SUBGROUP), 1000), Some(matrices));
        assert_eq!(taken(&shape(half, vk::ScopeKHR::SUBGROUP), 1000), None);
        assert_eq!(taken(&shape(single, vk::ScopeKHR::WORKGROUP), 1000), None);
    }
}
