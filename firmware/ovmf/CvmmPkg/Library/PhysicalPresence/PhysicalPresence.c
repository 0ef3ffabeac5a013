// SPDX-License-Identifier: Apache-2.0
// TPM physical presence: there is none. A guest's owner is not in front of the machine, and the host does not speak for the owner.
#include <PiDxe.h>
#include <IndustryStandard/TcgPhysicalPresence.h>
#include <Library/Tcg2PhysicalPresenceLib.h>

UINT32
EFIAPI
Tcg2PhysicalPresenceLibSubmitRequestToPreOSFunction (
  IN UINT32  OperationRequest,
  IN UINT32  RequestParameter
  )
{
  return TCG_PP_SUBMIT_REQUEST_TO_PREOS_NOT_IMPLEMENTED;
}

UINT32
EFIAPI
Tcg2PhysicalPresenceLibReturnOperationResponseToOsFunction (
  OUT UINT32  *MostRecentRequest,
  OUT UINT32  *Response
  )
{
  *MostRecentRequest = 0;
  *Response          = 0;
  return TCG_PP_RETURN_TPM_OPERATION_RESPONSE_SUCCESS;
}
