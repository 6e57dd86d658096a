#pragma once
// Signals that ask a run to stop. A thread of their own takes them, so that no computing thread is
// interrupted and what is done about them may lock and allocate.
#include <chrono>
#include <string>

#include "core/comm/comm.h"

namespace ls::experiments {

/// SIGINT, SIGTERM, SIGUSR1 and SIGUSR2 no longer interrupt this thread or those that it starts.
/// Until install_stop_signals they end the process as ever. Call it once, before there are other
/// threads.
void take_signals_aside();
/// From now on the first of them asks a run to save and leave; a second one ends the process at
/// once.
void install_stop_signals();
/// From this moment on runs are asked the same, with kTimeIsUp in place of a signal.
void leave_at(std::chrono::system_clock::time_point when);
inline constexpr int kTimeIsUp = 1 << 8;  ///< above every signal
/// The signal that any rank has got, or kTimeIsUp; 0 when there is none. Called by every rank.
int stop_signal(Communicator& comm);
/// The exit status of a program that stopped so: 128 and the signal, or 75 when the time was up
/// ("try again", EX_TEMPFAIL), on which a job may be put into its queue again.
int stop_status(int signal);

/// "5min", "90s", "1.5h", "90" (seconds). @throws Error(Config) on other text
std::chrono::duration<double> parse_duration(const std::string& text);
/// When the job ends that this process is part of: SLURM_JOB_END_TIME or LONGSCAN_JOB_END, seconds
/// since 1970. @throws Error(Config) where neither is set, or it is no such number
std::chrono::system_clock::time_point job_end();

}  // namespace ls::experiments
