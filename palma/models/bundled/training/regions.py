"""American states and territories, and other well-known lands, with their capitals, one line each.

The lines read as in `countries.py`: `name | capital | note | other names`.
"""

STATES = """
Alabama | Montgomery
Alaska | Juneau
Arizona | Phoenix
Arkansas | Little Rock
California | Sacramento || CA
Colorado | Denver
Connecticut | Hartford
Delaware | Dover
Florida | Tallahassee
the state of Georgia | Atlanta || Georgia the state; the US state of Georgia; Georgia, USA; \
Georgia in the United States; the American state of Georgia
Hawaii | Honolulu || Hawai'i
Idaho | Boise
Illinois | Springfield
Indiana | Indianapolis
Iowa | Des Moines
Kansas | Topeka
Kentucky | Frankfort
Louisiana | Baton Rouge
Maine | Augusta
Maryland | Annapolis
Massachusetts | Boston
Michigan | Lansing
Minnesota | Saint Paul
Mississippi | Jackson
Missouri | Jefferson City
Montana | Helena
Nebraska | Lincoln
Nevada | Carson City
New Hampshire | Concord
New Jersey | Trenton || NJ
New Mexico | Santa Fe
New York | Albany || New York State; NY
North Carolina | Raleigh
North Dakota | Bismarck
Ohio | Columbus
Oklahoma | Oklahoma City
Oregon | Salem
Pennsylvania | Harrisburg
Rhode Island | Providence
South Carolina | Columbia
South Dakota | Pierre
Tennessee | Nashville
Texas | Austin
Utah | Salt Lake City
Vermont | Montpelier
Virginia | Richmond
Washington | Olympia || Washington State
West Virginia | Charleston
Wisconsin | Madison
Wyoming | Cheyenne
the District of Columbia | Washington, D.C. || Washington, D.C.; Washington DC; DC; D.C.
"""

US_TERRITORIES = """
Puerto Rico | San Juan || PR
Guam | Hagåtña
American Samoa | Pago Pago
the US Virgin Islands | Charlotte Amalie || the U.S. Virgin Islands; the Virgin Islands; USVI; \
the United States Virgin Islands
the Northern Mariana Islands | Saipan || the Northern Marianas; the Mariana Islands
"""

LANDS = """
Anguilla | The Valley
Aruba | Oranjestad
Bermuda | Hamilton
the British Virgin Islands | Road Town || BVI; the BVI
the Cayman Islands | George Town || the Caymans
the Cook Islands | Avarua
Curaçao | Willemstad
England | London
the Falkland Islands | Stanley || the Falklands
the Faroe Islands | Tórshavn || the Faroes
French Guiana | Cayenne
French Polynesia | Papeete || Tahiti
Gibraltar | Gibraltar
Greenland | Nuuk
Guadeloupe | Basse-Terre
Guernsey | Saint Peter Port
the Isle of Man | Douglas
Jersey | Saint Helier
Martinique | Fort-de-France
Mayotte | Mamoudzou
Montserrat | Brades | Plymouth was buried by a volcano
New Caledonia | Nouméa
Niue | Alofi
Norfolk Island | Kingston
Northern Ireland | Belfast
Réunion | Saint-Denis
Saint Helena | Jamestown || St Helena; St. Helena
Saint Pierre and Miquelon | Saint-Pierre || St Pierre and Miquelon
Scotland | Edinburgh
Sint Maarten | Philipsburg
Svalbard | Longyearbyen
the Turks and Caicos Islands | Cockburn Town || Turks and Caicos; the Turks and Caicos
the Åland Islands | Mariehamn || Åland
Wales | Cardiff
Wallis and Futuna | Mata-Utu
"""
