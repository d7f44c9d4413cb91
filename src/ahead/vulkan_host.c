/* Runs an artefact for Vulkan: plays the plan of the folder it is given.

     cc -O2 -o vulkan_host vulkan_host.c -lvulkan
     ./vulkan_host FOLDER ENTRY ARRAYS

   reads the arguments from ARRAYS/NAME.in, as raw elements in row-major order, runs the entry once, writes the results to ARRAYS/NAME.out and, if
   there are states, what they are now to ARRAYS/states.out. It runs on the first device that has what the plan needs, and says of others what they lack.

   plan.txt has one item a line: `need NAME LEAST`, a feature (1) or limit of Vulkan 1.2 and the least of it that a device must have; nothing else is
   asked of devices, but that `fma` rounds once if it does on the device for which the plan was made; `area BYTES FILE` for the blocks of states, constants, arena, scratch, ports and the flag (`-` where nothing is in
   them yet); `module FILE COLUMNS ROWS WORDS BINDINGS`, where each binding is a letter: b a storage buffer, 1 and 4 views as texels of one f32 or
   four; and for each entry its ports, `input|output NAME OFFSET BYTES`, then type and own name, and its commands, in which AREA OFFSET BYTES names
   memory: `dispatch MODULE (AREA OFFSET BYTES)... WORD...`, `copy FROM TO`, `write TO VALUE`, `barrier`. `branch ... else ... end` runs the first
   part if the flag is set by then, else the second; `while ... do ... end` runs the first part and, as long as that sets the flag, the second and
   the first again. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vulkan/vulkan.h>

enum { AREAS = 6, MOST_NEEDS = 64, MOST_DEVICES = 16, STATES = 0, PORTS = 4, FLAG = 5, MOST_PORTS = 256, MOST_BINDINGS = 256, MOST_WORDS = 64, MOST_NESTED = 64, SETS_OF_A_POOL = 1024, NAME = 256 };

static void fail(const char *what, const char *which) {
    fprintf(stderr, "error: %s%s%s\n", what, *which ? ": " : "", which);
    exit(1);
}

static void check(VkResult result, const char *doing) {
    if (result == VK_SUCCESS) return;
    fprintf(stderr, "error: %s: Vulkan says %d\n", doing, (int)result);
    exit(1);
}

static void *memory(size_t bytes) {
    void *start = calloc(1, bytes ? bytes : 1);
    if (!start) fail("out of memory", "");
    return start;
}

static FILE *open_file(const char *folder, const char *name, const char *mode) {
    char path[2 * NAME];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, mode);
    if (!file) fail("cannot open", path);
    return file;
}

static void read_exactly(const char *folder, const char *name, void *to, size_t bytes) {
    FILE *file = open_file(folder, name, "rb");
    if (fread(to, 1, bytes, file) != bytes || fgetc(file) != EOF) fail("it is not of the length that the plan says", name);
    fclose(file);
}

static void write_exactly(const char *folder, const char *name, const void *from, size_t bytes) {
    FILE *file = open_file(folder, name, "wb");
    if (fwrite(from, 1, bytes, file) != bytes || fclose(file)) fail("cannot write", name);
}

static FILE *plan;

static char *next_word(char word[NAME]) {
    if (fscanf(plan, "%255s", word) != 1) fail("the plan is broken", "it ends too early");
    return word;
}

static uint64_t number(void) {
    uint64_t value;
    if (fscanf(plan, "%llu", (unsigned long long *)&value) != 1) fail("the plan is broken", "a number is missing");
    return value;
}

static struct need { char name[NAME]; uint64_t least; } needs[MOST_NEEDS];
static uint32_t need_count;

static void read_needs(void) {
    if (fscanf(plan, " needs %u", &need_count) != 1 || need_count > MOST_NEEDS) fail("the plan is broken", "no number of needs");
    for (uint32_t at = 0; at < need_count; at++) {
        if (fscanf(plan, " need %255s", needs[at].name) != 1) fail("the plan is broken", "a need is missing");
        needs[at].least = number();
    }
}

/* What a device has, in Vulkan's own structures, each with the ones that follow it in a chain. */
struct device_info {
    VkPhysicalDeviceFeatures2 features;
    VkPhysicalDeviceVulkan11Features features11;
    VkPhysicalDeviceVulkan12Features features12;
    VkPhysicalDeviceProperties2 properties;
    VkPhysicalDeviceVulkan11Properties properties11;
    VkPhysicalDeviceVulkan12Properties properties12;
};

static void ask(VkPhysicalDevice of, struct device_info *info) {
    *info = (struct device_info){
        .features = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2, .pNext = &info->features11},
        .features11 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_FEATURES, .pNext = &info->features12},
        .features12 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES},
        .properties = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2, .pNext = &info->properties11},
        .properties11 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_PROPERTIES, .pNext = &info->properties12},
        .properties12 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_PROPERTIES},
    };
    vkGetPhysicalDeviceFeatures2(of, &info->features);
    vkGetPhysicalDeviceProperties2(of, &info->properties);
}

/* How much of something that a plan may need there is. */
static uint64_t amount(const struct device_info *info, const char *name) {
    const VkPhysicalDeviceFeatures *base = &info->features.features;
    const VkPhysicalDeviceVulkan11Features *features11 = &info->features11;
    const VkPhysicalDeviceVulkan12Features *features12 = &info->features12;
    const VkPhysicalDeviceLimits *limits = &info->properties.properties.limits;
    const VkPhysicalDeviceVulkan11Properties *properties11 = &info->properties11;
    const VkPhysicalDeviceVulkan12Properties *properties12 = &info->properties12;
#define KNOWN(from, member) if (!strcmp(name, #member)) return from->member;
    KNOWN(base, shaderFloat64)
    KNOWN(base, shaderInt64)
    KNOWN(features11, storageBuffer16BitAccess)
    KNOWN(features12, storageBuffer8BitAccess)
    KNOWN(features12, shaderFloat16)
    KNOWN(properties12, shaderRoundingModeRTEFloat16)
    KNOWN(properties12, shaderRoundingModeRTEFloat32)
    KNOWN(properties12, shaderRoundingModeRTEFloat64)
    KNOWN(properties12, shaderDenormPreserveFloat16)
    KNOWN(properties12, shaderDenormPreserveFloat32)
    KNOWN(properties12, shaderDenormPreserveFloat64)
    KNOWN(properties12, shaderSignedZeroInfNanPreserveFloat16)
    KNOWN(properties12, shaderSignedZeroInfNanPreserveFloat32)
    KNOWN(properties12, shaderSignedZeroInfNanPreserveFloat64)
    KNOWN(properties11, subgroupSize)
    KNOWN(limits, maxComputeWorkGroupInvocations)
    KNOWN(limits, maxComputeWorkGroupSize[0])
    KNOWN(limits, maxComputeSharedMemorySize)
    KNOWN(limits, maxComputeWorkGroupCount[0])
    KNOWN(limits, maxComputeWorkGroupCount[1])
    KNOWN(limits, maxPerStageDescriptorStorageBuffers)
    KNOWN(limits, maxPerStageDescriptorSampledImages)
    KNOWN(limits, maxPushConstantsSize)
    KNOWN(limits, maxStorageBufferRange)
    KNOWN(limits, maxTexelBufferElements)
#undef KNOWN
    if (!strcmp(name, "VK_SUBGROUP_FEATURE_SHUFFLE_BIT"))
        return properties11->subgroupSupportedStages & VK_SHADER_STAGE_COMPUTE_BIT && properties11->subgroupSupportedOperations & VK_SUBGROUP_FEATURE_SHUFFLE_BIT;
    fail("the plan needs what this host does not know", name);
    return 0;
}

/* Whether a device has what the plan needs; what it lacks is said. */
static int has_all(const struct device_info *info) {
    int lacks = 0;
    for (const struct need *need = needs; need < needs + need_count; need++) {
        uint64_t there = amount(info, need->name);
        if (there >= need->least) continue;
        fprintf(stderr, "%s lacks %s: the plan needs %llu, it has %llu\n", info->properties.properties.deviceName, need->name, (unsigned long long)need->least, (unsigned long long)there);
        lacks = 1;
    }
    return !lacks;
}

static VkPhysicalDevice physical;
static VkDevice device;
static VkQueue queue;
static uint32_t family;

/* The first device that computes and has what the plan needs, and on it everything that kernels may need, as far as it is there. */
static void open_device(void) {
    VkApplicationInfo app = {.sType = VK_STRUCTURE_TYPE_APPLICATION_INFO, .apiVersion = VK_API_VERSION_1_2};
    VkInstanceCreateInfo instance_info = {.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO, .pApplicationInfo = &app};
    VkInstance instance;
    check(vkCreateInstance(&instance_info, 0, &instance), "starting Vulkan");
    VkPhysicalDevice found[MOST_DEVICES];
    uint32_t count = MOST_DEVICES, computing = 0;
    VkResult result = vkEnumeratePhysicalDevices(instance, &count, found);
    if (result != VK_INCOMPLETE) check(result, "looking for devices");
    struct device_info info;
    for (uint32_t at = 0; at < count && !physical; at++) {
        VkPhysicalDeviceProperties properties;
        vkGetPhysicalDeviceProperties(found[at], &properties);
        VkQueueFamilyProperties families[16];
        uint32_t several = 16;
        vkGetPhysicalDeviceQueueFamilyProperties(found[at], &several, families);
        for (family = 0; family < several; family++)
            if (families[family].queueFlags & VK_QUEUE_COMPUTE_BIT) break;
        if (family == several || properties.apiVersion < VK_API_VERSION_1_2) continue;
        computing++;
        ask(found[at], &info);
        if (!has_all(&info)) continue;
        physical = found[at];
        fprintf(stderr, "running on %s\n", properties.deviceName);
    }
    if (!computing) fail("there is no device with Vulkan 1.2 that computes", "");
    if (!physical) fail("no device has what the plan needs; compile the model for one that is here", "");
    float priority = 1;
    VkDeviceQueueCreateInfo one = {.sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO, .queueFamilyIndex = family, .queueCount = 1, .pQueuePriorities = &priority};
    /* Bounds are proved when the plan is made, so that the device need not look. */
    info.features.features.robustBufferAccess = VK_FALSE;
    VkDeviceCreateInfo made = {.sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO, .pNext = &info.features, .queueCreateInfoCount = 1, .pQueueCreateInfos = &one};
    check(vkCreateDevice(physical, &made, 0, &device), "opening the device");
    vkGetDeviceQueue(device, family, 0, &queue);
}

struct area { VkBuffer buffer; uint64_t bytes; unsigned char *host; };

/* Memory that host and device see alike: simple, and where the memory is the host's anyway no slower. */
static struct area new_area(uint64_t bytes) {
    struct area area = {.bytes = bytes};
    uint64_t whole = (bytes / 256 + 1) * 256;
    VkBufferCreateInfo info = {.sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO, .size = whole,
        .usage = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT | VK_BUFFER_USAGE_UNIFORM_TEXEL_BUFFER_BIT | VK_BUFFER_USAGE_TRANSFER_SRC_BIT | VK_BUFFER_USAGE_TRANSFER_DST_BIT};
    check(vkCreateBuffer(device, &info, 0, &area.buffer), "making a buffer");
    VkMemoryRequirements needs;
    vkGetBufferMemoryRequirements(device, area.buffer, &needs);
    VkPhysicalDeviceMemoryProperties types;
    vkGetPhysicalDeviceMemoryProperties(physical, &types);
    const VkMemoryPropertyFlags wanted = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
    uint32_t type = 0;
    while (type < types.memoryTypeCount && !(needs.memoryTypeBits >> type & 1 && (types.memoryTypes[type].propertyFlags & wanted) == wanted)) type++;
    if (type == types.memoryTypeCount) fail("the device has no memory that the host sees", "");
    VkMemoryAllocateInfo take = {.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO, .allocationSize = needs.size, .memoryTypeIndex = type};
    VkDeviceMemory taken;
    check(vkAllocateMemory(device, &take, 0, &taken), "taking memory");
    check(vkBindBufferMemory(device, area.buffer, taken, 0), "taking memory");
    check(vkMapMemory(device, taken, 0, VK_WHOLE_SIZE, 0, (void **)&area.host), "taking memory");
    memset(area.host, 0, whole);
    return area;
}

struct module { char file[NAME], kinds[MOST_BINDINGS + 1]; uint32_t bindings, columns, rows, words; VkDescriptorSetLayout set; VkPipelineLayout layout; VkPipeline pipeline; };

static VkDescriptorType type_of(char kind) {
    return kind == 'b' ? VK_DESCRIPTOR_TYPE_STORAGE_BUFFER : VK_DESCRIPTOR_TYPE_UNIFORM_TEXEL_BUFFER;
}

static void build(struct module *module, const char *folder) {
    FILE *file = open_file(folder, module->file, "rb");
    fseek(file, 0, SEEK_END);
    long bytes = ftell(file);
    rewind(file);
    uint32_t *words = memory((size_t)bytes);
    if (bytes <= 0 || fread(words, 1, (size_t)bytes, file) != (size_t)bytes) fail("cannot read", module->file);
    fclose(file);
    VkShaderModuleCreateInfo info = {.sType = VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO, .codeSize = (size_t)bytes, .pCode = words};
    VkShaderModule shader;
    check(vkCreateShaderModule(device, &info, 0, &shader), "loading a kernel");
    VkDescriptorSetLayoutBinding bindings[MOST_BINDINGS];
    for (uint32_t at = 0; at < module->bindings; at++)
        bindings[at] = (VkDescriptorSetLayoutBinding){.binding = at, .descriptorType = type_of(module->kinds[at]), .descriptorCount = 1, .stageFlags = VK_SHADER_STAGE_COMPUTE_BIT};
    VkDescriptorSetLayoutCreateInfo set = {.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_LAYOUT_CREATE_INFO, .bindingCount = module->bindings, .pBindings = bindings};
    check(vkCreateDescriptorSetLayout(device, &set, 0, &module->set), "describing a kernel");
    VkPushConstantRange push = {.stageFlags = VK_SHADER_STAGE_COMPUTE_BIT, .size = 4 * module->words};
    VkPipelineLayoutCreateInfo layout = {.sType = VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO, .setLayoutCount = 1, .pSetLayouts = &module->set, .pushConstantRangeCount = 1, .pPushConstantRanges = &push};
    check(vkCreatePipelineLayout(device, &layout, 0, &module->layout), "describing a kernel");
    VkComputePipelineCreateInfo pipeline = {.sType = VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO, .layout = module->layout,
        .stage = {.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO, .stage = VK_SHADER_STAGE_COMPUTE_BIT, .module = shader, .pName = "main"}};
    check(vkCreateComputePipelines(device, VK_NULL_HANDLE, 1, &pipeline, 0, &module->pipeline), "compiling a kernel");
    vkDestroyShaderModule(device, shader, 0);
    free(words);
}

/* A set of bindings, from a pool that is made when the last one is full. */
static VkDescriptorSet new_set(const struct module *module) {
    static VkDescriptorPool pool;
    static uint32_t left;
    if (!left) {
        const VkDescriptorPoolSize sizes[] = {
            {.type = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER, .descriptorCount = SETS_OF_A_POOL * 16},
            {.type = VK_DESCRIPTOR_TYPE_UNIFORM_TEXEL_BUFFER, .descriptorCount = SETS_OF_A_POOL * 16},
        };
        VkDescriptorPoolCreateInfo info = {.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_POOL_CREATE_INFO, .maxSets = SETS_OF_A_POOL, .poolSizeCount = 2, .pPoolSizes = sizes};
        check(vkCreateDescriptorPool(device, &info, 0, &pool), "making room for bindings");
        left = SETS_OF_A_POOL;
    }
    VkDescriptorSetAllocateInfo info = {.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_ALLOCATE_INFO, .descriptorPool = pool, .descriptorSetCount = 1, .pSetLayouts = &module->set};
    VkDescriptorSet set;
    VkResult result = vkAllocateDescriptorSets(device, &info, &set);
    if (result == VK_ERROR_OUT_OF_POOL_MEMORY) {
        left = 0;
        return new_set(module);
    }
    check(result, "binding a kernel's tensors");
    left--;
    return set;
}

static const VkPipelineStageFlags KERNELS_AND_COPIES = VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT | VK_PIPELINE_STAGE_TRANSFER_BIT;
static const VkAccessFlags SEES_EVERYTHING = VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_SHADER_WRITE_BIT | VK_ACCESS_TRANSFER_READ_BIT | VK_ACCESS_TRANSFER_WRITE_BIT;

static void barrier(VkCommandBuffer commands, VkPipelineStageFlags to, VkAccessFlags sees) {
    VkMemoryBarrier all = {.sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER, .srcAccessMask = VK_ACCESS_SHADER_WRITE_BIT | VK_ACCESS_TRANSFER_WRITE_BIT, .dstAccessMask = sees};
    vkCmdPipelineBarrier(commands, KERNELS_AND_COPIES, to, 0, 1, &all, 0, 0, 0, 0);
}

static struct area areas[AREAS];

struct range { uint32_t area; uint64_t start, bytes; };

static struct range range(void) {
    struct range found = {.area = (uint32_t)number()};
    found.start = number();
    found.bytes = number();
    if (found.area >= AREAS || found.start > areas[found.area].bytes || found.bytes > areas[found.area].bytes - found.start) fail("the plan is broken", "memory outside an area");
    return found;
}

static struct module *modules;
static uint32_t module_count;

static void dispatch(VkCommandBuffer commands) {
    uint64_t which = number();
    if (which >= module_count) fail("the plan is broken", "no such module");
    struct module *module = &modules[which];
    VkDescriptorSet set = new_set(module);
    VkDescriptorBufferInfo buffers[MOST_BINDINGS];
    VkBufferView views[MOST_BINDINGS];
    VkWriteDescriptorSet writes[MOST_BINDINGS];
    for (uint32_t at = 0; at < module->bindings; at++) {
        struct range bound = range();
        char kind = module->kinds[at];
        writes[at] = (VkWriteDescriptorSet){.sType = VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET, .dstSet = set, .dstBinding = at, .descriptorCount = 1, .descriptorType = type_of(kind)};
        /* Where a tensor has no elements, something is bound all the same. */
        if (!bound.bytes) bound = (struct range){.area = bound.area, .bytes = 16};
        if (kind == 'b') {
            buffers[at] = (VkDescriptorBufferInfo){.buffer = areas[bound.area].buffer, .offset = bound.start, .range = bound.bytes};
            writes[at].pBufferInfo = &buffers[at];
        } else {
            VkBufferViewCreateInfo info = {.sType = VK_STRUCTURE_TYPE_BUFFER_VIEW_CREATE_INFO, .buffer = areas[bound.area].buffer, .offset = bound.start, .range = bound.bytes,
                .format = kind == '4' ? VK_FORMAT_R32G32B32A32_SFLOAT : VK_FORMAT_R32_SFLOAT};
            check(vkCreateBufferView(device, &info, 0, &views[at]), "viewing a tensor");
            writes[at].pTexelBufferView = &views[at];
        }
    }
    vkUpdateDescriptorSets(device, module->bindings, writes, 0, 0);
    uint32_t words[MOST_WORDS];
    for (uint32_t at = 0; at < module->words; at++) words[at] = (uint32_t)number();
    vkCmdBindPipeline(commands, VK_PIPELINE_BIND_POINT_COMPUTE, module->pipeline);
    vkCmdBindDescriptorSets(commands, VK_PIPELINE_BIND_POINT_COMPUTE, module->layout, 0, 1, &set, 0, 0);
    vkCmdPushConstants(commands, module->layout, VK_SHADER_STAGE_COMPUTE_BIT, 0, 4 * module->words, words);
    vkCmdDispatch(commands, module->columns, module->rows, 1);
}

/* Commands, or what the host decides: `one` and `other` are the sides of a branch, or the condition and the body of a loop. */
struct segment { enum { RUN, BRANCH, WHILE } kind; VkCommandBuffer commands; struct segment *one, *other, *next; };

static VkCommandPool pool;

static VkCommandBuffer begin(void) {
    VkCommandBufferAllocateInfo buffer_info = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO, .commandPool = pool, .level = VK_COMMAND_BUFFER_LEVEL_PRIMARY, .commandBufferCount = 1};
    VkCommandBuffer commands;
    check(vkAllocateCommandBuffers(device, &buffer_info, &commands), "recording");
    VkCommandBufferBeginInfo info = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO};
    check(vkBeginCommandBuffer(commands, &info), "recording");
    barrier(commands, KERNELS_AND_COPIES, SEES_EVERYTHING);
    return commands;
}

static void finish(VkCommandBuffer commands) {
    barrier(commands, VK_PIPELINE_STAGE_HOST_BIT, VK_ACCESS_HOST_READ_BIT);
    check(vkEndCommandBuffer(commands), "recording");
}

static void record(VkCommandBuffer commands, const char *word) {
    if (!strcmp(word, "barrier")) {
        barrier(commands, KERNELS_AND_COPIES, SEES_EVERYTHING);
    } else if (!strcmp(word, "copy")) {
        struct range from = range(), to = range();
        if (to.bytes != from.bytes) fail("the plan is broken", "a copy of another length");
        VkBufferCopy copy = {.srcOffset = from.start, .dstOffset = to.start, .size = from.bytes};
        vkCmdCopyBuffer(commands, areas[from.area].buffer, areas[to.area].buffer, 1, &copy);
    } else if (!strcmp(word, "write")) {
        struct range to = range();
        uint64_t value = number();
        if (to.bytes != sizeof value) fail("the plan is broken", "a number of another length");
        vkCmdUpdateBuffer(commands, areas[to.area].buffer, to.start, sizeof value, &value);
    } else if (!strcmp(word, "dispatch")) {
        dispatch(commands);
    } else {
        fail("the plan is broken: it has an unknown command", word);
    }
}

/* Segments up to the line `end`; `word` is the first that has been read. */
static struct segment *segments(char word[NAME], const char *end, int nested) {
    if (nested > MOST_NESTED) fail("the plan is broken", "too much stands within something else");
    struct segment *first = 0, **next = &first;
    VkCommandBuffer commands = 0;
    for (; strcmp(word, end); word = next_word(word)) {
        int is_while = !strcmp(word, "while");
        if (!is_while && strcmp(word, "branch")) {
            if (!commands) {
                commands = begin();
                *next = memory(sizeof **next);
                (*next)->commands = commands;
                next = &(*next)->next;
            }
            record(commands, word);
            continue;
        }
        if (commands) finish(commands);
        commands = 0;
        struct segment *both = *next = memory(sizeof *both);
        both->kind = is_while ? WHILE : BRANCH;
        both->one = segments(next_word(word), is_while ? "do" : "else", nested + 1);
        both->other = segments(next_word(word), "end", nested + 1);
        next = &both->next;
    }
    if (commands) finish(commands);
    return first;
}

static void run(const struct segment *segment) {
    for (; segment; segment = segment->next) {
        if (segment->kind == BRANCH) {
            run(*areas[FLAG].host ? segment->one : segment->other);
        } else if (segment->kind == WHILE) {
            for (run(segment->one); *areas[FLAG].host; run(segment->one)) run(segment->other);
        } else {
            VkSubmitInfo submit = {.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO, .commandBufferCount = 1, .pCommandBuffers = &segment->commands};
            check(vkQueueSubmit(queue, 1, &submit, VK_NULL_HANDLE), "running");
            check(vkQueueWaitIdle(queue), "running");
        }
    }
}

struct port { char name[NAME]; uint64_t at, bytes; int is_output; };

int main(int count, char **arguments) {
    if (count != 4) {
        fputs("usage: vulkan_host FOLDER ENTRY ARRAYS\n", stderr);
        return 2;
    }
    const char *folder = arguments[1], *wanted = arguments[2], *arrays = arguments[3];
    plan = open_file(folder, "plan.txt", "r");
    int version;
    if (fscanf(plan, "netloom-vulkan %d", &version) != 1 || version != 3) fail("plan.txt is no plan of version 3", "");
    read_needs();
    open_device();
    for (int at = 0; at < AREAS; at++) {
        unsigned long long bytes;
        char file[NAME];
        if (fscanf(plan, " area %llu %255s", &bytes, file) != 2) fail("the plan is broken", "an area is missing");
        areas[at] = new_area(bytes);
        if (strcmp(file, "-")) read_exactly(folder, file, areas[at].host, bytes);
    }
    if (fscanf(plan, " modules %u", &module_count) != 1) fail("the plan is broken", "no number of modules");
    modules = memory(sizeof *modules * module_count);
    for (uint32_t at = 0; at < module_count; at++) {
        struct module *module = &modules[at];
        if (fscanf(plan, " module %255s %u %u %u %256s", module->file, &module->columns, &module->rows, &module->words, module->kinds) != 5 || module->words > MOST_WORDS) fail("the plan is broken", "a module is missing");
        module->bindings = (uint32_t)strlen(module->kinds);
        build(module, folder);
    }
    char word[NAME];
    while (1) {
        if (fscanf(plan, "%255s", word) != 1) fail("there is no such entry", wanted);
        if (!strcmp(word, "entry") && !strcmp(next_word(word), wanted)) break;
        if (fscanf(plan, "%*[^\n]") == EOF) fail("there is no such entry", wanted);
    }

    VkCommandPoolCreateInfo pool_info = {.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO, .queueFamilyIndex = family};
    check(vkCreateCommandPool(device, &pool_info, 0, &pool), "recording");
    static struct port ports[MOST_PORTS];
    uint32_t port_count = 0;
    while (!strcmp(next_word(word), "input") || !strcmp(word, "output")) {
        if (port_count == MOST_PORTS) fail("the plan has too many arguments and results", "");
        struct port *port = &ports[port_count++];
        port->is_output = *word == 'o';
        if (fscanf(plan, "%240s", port->name) != 1) fail("the plan is broken", "a port without a name");
        port->at = number();
        port->bytes = number();
        if (fscanf(plan, "%*[^\n]") == EOF) fail("the plan is broken", port->name);
        if (port->at > areas[PORTS].bytes || port->bytes > areas[PORTS].bytes - port->at) fail("the plan is broken", port->name);
        strcat(port->name, port->is_output ? ".out" : ".in");
        if (!port->is_output) read_exactly(arrays, port->name, areas[PORTS].host + port->at, port->bytes);
    }
    run(segments(word, "end", 0));
    for (uint32_t at = 0; at < port_count; at++)
        if (ports[at].is_output) write_exactly(arrays, ports[at].name, areas[PORTS].host + ports[at].at, ports[at].bytes);
    if (areas[STATES].bytes) write_exactly(arrays, "states.out", areas[STATES].host, areas[STATES].bytes);
    return 0;
}
