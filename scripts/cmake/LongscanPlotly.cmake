# What the page of `longscan report` is made of becomes a part of the program. Plotly is not in the
# checkout: scripts/setup.sh fetches it from PyPI, and Debian's python3-plotly has an older one.
set(plotly "")
if(LONGSCAN_PLOTLY STREQUAL AUTO)
  set(caches "$ENV{HOME}/.cache")
  if(DEFINED ENV{XDG_CACHE_HOME})
    set(caches "$ENV{XDG_CACHE_HOME}")
  endif()
  foreach(path ${caches}/longscan/plotly.min.js /usr/share/python3-plotly/plotly.min.js
               /usr/share/python3-plotly/plotly.js)
    if(EXISTS ${path} AND NOT plotly)
      set(plotly ${path})
    endif()
  endforeach()
elseif(LONGSCAN_PLOTLY)
  set(plotly ${LONGSCAN_PLOTLY})
  if(NOT EXISTS ${plotly})
    message(FATAL_ERROR "LONGSCAN_PLOTLY: no file ${plotly}; name plotly.min.js, or OFF for reports "
                        "with pictures alone")
  endif()
endif()
if(plotly)
  message(STATUS "longscan: Plotly ${plotly}")
else()
  message(STATUS "longscan: no Plotly, so pages of `longscan report` show pictures; "
                 "scripts/setup.sh fetches it, or set LONGSCAN_PLOTLY to plotly.min.js")
endif()
set(page_files ${CMAKE_SOURCE_DIR}/experiments/report/page.css
               ${CMAKE_SOURCE_DIR}/experiments/report/page.js)
list(GET page_files 0 page_css)
list(GET page_files 1 page_js)
set(page_definitions "LS_PAGE_CSS=\"${page_css}\"" "LS_PAGE_JS=\"${page_js}\"")
if(plotly)
  list(APPEND page_definitions "LS_PLOTLY=\"${plotly}\"")
endif()
set_source_files_properties(experiments/report/assets.cpp PROPERTIES
  COMPILE_DEFINITIONS "${page_definitions}" OBJECT_DEPENDS "${page_files};${plotly}")
