#pragma once
// Small text files that are never left half-written, and what to say when the disk refuses.
#include <string>
#include <string_view>

namespace ls {

/// "No space left on device: the disk is full; ..." for an errno of a failed write: the system's
/// words and, for a full disk, quota or file-size limit, what to do.
std::string write_failure(int error);

/// Why a name from a config cannot be that of a folder below another, or "": such a name is one
/// step, hides nothing and fits every file system.
std::string folder_name_fault(std::string_view name);

/// The whole file. @throws Error(Io)
std::string read_file(const std::string& path);
/// Writes a temporary file beside `path`, forces it to the disk, renames it and syncs the folder:
/// whatever happens, `path` holds the old text or the new. @throws Error(Io)
void replace_file(const std::string& path, std::string_view text);
/// Appends text and a line feed in one write. @throws Error(Io)
void append_line(const std::string& path, std::string_view text);
/// Makes renames within a directory last through a power cut, as far as its file system can.
void sync_directory(const std::string& directory);
/// Creates a directory and those above it. @throws Error(Io)
void create_directories(const std::string& directory);

}  // namespace ls
