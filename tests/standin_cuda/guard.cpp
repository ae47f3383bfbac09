// The device guard that a build of torch for CPUs lacks: without one, torch refuses every device of the type CUDA.
#include <c10/core/impl/DeviceGuardImplInterface.h>
namespace {
c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> guard;
c10::impl::DeviceGuardImplRegistrar registrar(c10::DeviceType::CUDA, &guard);
}  // namespace
