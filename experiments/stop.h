#pragma once
// Signals that ask a run to stop. A thread of their own takes them, so that no computing thread is
// interrupted and what is done about them may lock and allocate.
#include "core/comm/comm.h"

namespace ls::experiments {

/// SIGINT, SIGTERM, SIGUSR1 and SIGUSR2 no longer interrupt this thread or those that it starts.
/// Until install_stop_signals they end the process as ever. Call it once, before there are other
/// threads.
void take_signals_aside();
/// From now on the first of them asks a run to save and leave; a second one ends the process at
/// once.
void install_stop_signals();
/// The signal that any rank has got, or 0. Called by every rank.
int stop_signal(Communicator& comm);

}  // namespace ls::experiments
