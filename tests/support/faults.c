/* A Vulkan layer in which a device fails: it hands every call on but those of the fault that NETLOOM_FAULT names. Declares by hand the little of
   Vulkan's and the loader's headers that it needs, so that they need not be installed. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef void (*Function)(void);
typedef Function (*GetProcAddr)(void *, const char *);

/* What begins every structure. */
struct Header { int32_t kind; struct Header *next; };

struct Link { struct Link *next; GetProcAddr instance_proc; GetProcAddr device_proc; };
struct LayerCreateInfo { struct Header header; int32_t function; struct Link *link; };

struct Negotiation {
  int32_t kind; void *next; uint32_t version;
  GetProcAddr instance_proc; GetProcAddr device_proc; GetProcAddr physical_device_proc;
};

enum { LOADER_INSTANCE = 47, LOADER_DEVICE = 48, LAYER_LINK = 0 };
enum { SUCCESS = 0, OUT_OF_DEVICE_MEMORY = -2, DEVICE_LOST = -4, INITIALIZATION_FAILED = -3 };
enum { COMPUTE = 2, FEATURES = 51 };

/* VkPhysicalDeviceVulkan12Features, as far as its member shaderFloat16. */
struct Features { struct Header header; uint32_t before[7]; uint32_t float16; };

struct QueueFamily { struct Header header; uint32_t flags; uint32_t rest[5]; };

typedef int32_t (*CreateInstance)(struct Header *, void *, void **);
typedef int32_t (*CreateDevice)(void *, struct Header *, void *, void **);
typedef int32_t (*Enumerate)(void *, uint32_t *, void **);
typedef void (*GetFeatures)(void *, struct Header *);
typedef void (*QueueFamilies)(void *, uint32_t *, struct QueueFamily *);

/* Who comes next. What the loader says once an instance is there leads back to its beginning, so these are asked for at once. */
static GetProcAddr next_instance_proc, next_device_proc;
static CreateDevice next_create_device;
static Enumerate next_enumerate;
static GetFeatures next_features;
static QueueFamilies next_queue_families;
static void *the_device;

static int fault_is(const char *name) {
  const char *fault = getenv("NETLOOM_FAULT");
  return fault && strcmp(fault, name) == 0;
}

/* The loader's word about who comes next. */
static struct Link *take_link(struct Header *header, int32_t kind) {
  for (; header; header = header->next) {
    struct LayerCreateInfo *info = (struct LayerCreateInfo *)header;
    if (header->kind == kind && info->function == LAYER_LINK) {
      struct Link *link = info->link;
      info->link = link->next;
      return link;
    }
  }
  return 0;
}

static int32_t create_instance(struct Header *info, void *allocator, void **instance) {
  struct Link *link = take_link(info->next, LOADER_INSTANCE);
  if (!link) return INITIALIZATION_FAILED;
  next_instance_proc = link->instance_proc;
  int32_t result = ((CreateInstance)next_instance_proc(0, "vkCreateInstance"))(info, allocator, instance);
  if (result != SUCCESS) return result;
  next_create_device = (CreateDevice)next_instance_proc(*instance, "vkCreateDevice");
  next_enumerate = (Enumerate)next_instance_proc(*instance, "vkEnumeratePhysicalDevices");
  next_features = (GetFeatures)next_instance_proc(*instance, "vkGetPhysicalDeviceFeatures2");
  next_queue_families = (QueueFamilies)next_instance_proc(*instance, "vkGetPhysicalDeviceQueueFamilyProperties2");
  return SUCCESS;
}

static int32_t create_device(void *physical, struct Header *info, void *allocator, void **device) {
  struct Link *link = take_link(info->next, LOADER_DEVICE);
  if (!link) return INITIALIZATION_FAILED;
  next_device_proc = link->device_proc;
  int32_t result = next_create_device(physical, info, allocator, device);
  the_device = *device;
  return result;
}

static int32_t enumerate_physical_devices(void *instance, uint32_t *count, void **devices) {
  if (fault_is("device")) {
    *count = 0;
    return SUCCESS;
  }
  return next_enumerate(instance, count, devices);
}

static void get_features(void *physical, struct Header *features) {
  next_features(physical, features);
  for (struct Header *part = features; fault_is("f16") && part; part = part->next)
    if (part->kind == FEATURES) ((struct Features *)part)->float16 = 0;
}

static void queue_families(void *physical, uint32_t *count, struct QueueFamily *families) {
  next_queue_families(physical, count, families);
  if (fault_is("queue"))
    for (uint32_t at = 0; families && at < *count; at++) families[at].flags &= ~COMPUTE;
}

static int32_t allocate_memory(void *device, void *info, void *allocator, void *memory) {
  if (fault_is("memory")) return OUT_OF_DEVICE_MEMORY;
  int32_t (*next)(void *, void *, void *, void *) = (void *)next_device_proc(device, "vkAllocateMemory");
  return next(device, info, allocator, memory);
}

static int32_t create_pipelines(void *device, uint64_t cache, uint32_t count, void *infos, void *allocator, void *pipelines) {
  if (fault_is("pipeline")) return INITIALIZATION_FAILED;
  int32_t (*next)(void *, uint64_t, uint32_t, void *, void *, void *) = (void *)next_device_proc(device, "vkCreateComputePipelines");
  return next(device, cache, count, infos, allocator, pipelines);
}

/* So many submissions are carried out before the device is lost: NETLOOM_FAULT_AFTER. */
static int32_t queue_submit(void *queue, uint32_t count, void *submissions, uint64_t fence) {
  static long done;
  const char *after = getenv("NETLOOM_FAULT_AFTER");
  if (fault_is("lost") && done++ >= (after ? atol(after) : 0)) return DEVICE_LOST;
  int32_t (*next)(void *, uint32_t, void *, uint64_t) = (void *)next_device_proc(the_device, "vkQueueSubmit");
  return next(queue, count, submissions, fence);
}

static Function device_proc(void *device, const char *name);

static Function instance_proc(void *instance, const char *name) {
  if (strcmp(name, "vkGetInstanceProcAddr") == 0) return (Function)instance_proc;
  if (strcmp(name, "vkCreateInstance") == 0) return (Function)create_instance;
  if (strcmp(name, "vkCreateDevice") == 0) return (Function)create_device;
  if (strcmp(name, "vkEnumeratePhysicalDevices") == 0) return (Function)enumerate_physical_devices;
  if (strcmp(name, "vkGetPhysicalDeviceFeatures2") == 0) return (Function)get_features;
  if (strcmp(name, "vkGetPhysicalDeviceQueueFamilyProperties2") == 0) return (Function)queue_families;
  if (strcmp(name, "vkGetDeviceProcAddr") == 0) return (Function)device_proc;
  if (strcmp(name, "vkAllocateMemory") == 0) return (Function)allocate_memory;
  if (strcmp(name, "vkCreateComputePipelines") == 0) return (Function)create_pipelines;
  if (strcmp(name, "vkQueueSubmit") == 0) return (Function)queue_submit;
  return next_instance_proc ? next_instance_proc(instance, name) : 0;
}

static Function device_proc(void *device, const char *name) {
  if (strcmp(name, "vkGetDeviceProcAddr") == 0) return (Function)device_proc;
  if (strcmp(name, "vkAllocateMemory") == 0) return (Function)allocate_memory;
  if (strcmp(name, "vkCreateComputePipelines") == 0) return (Function)create_pipelines;
  if (strcmp(name, "vkQueueSubmit") == 0) return (Function)queue_submit;
  return next_device_proc(device, name);
}

/* What the loader asks first. */
int32_t vkNegotiateLoaderLayerInterfaceVersion(struct Negotiation *negotiation) {
  negotiation->version = 2;
  negotiation->instance_proc = instance_proc;
  negotiation->device_proc = device_proc;
  negotiation->physical_device_proc = 0;
  return SUCCESS;
}
