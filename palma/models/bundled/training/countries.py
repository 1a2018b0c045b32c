"""The world's countries and their capitals, one line each.

A line reads `name | capital | note | other names`. The note follows the capital in brackets, for
countries where one city is not the whole answer. `the` in a name belongs to running text. The list
holds the 193 members of the United Nations, its two observers, Kosovo and Taiwan, and three names
that stand for two places (Georgia, the Congo, Korea) and are answered with both capitals.
"""

COUNTRIES = """
Afghanistan | Kabul
Albania | Tirana
Algeria | Algiers
Andorra | Andorra la Vella
Angola | Luanda
Antigua and Barbuda | Saint John's || Antigua
Argentina | Buenos Aires
Armenia | Yerevan
Australia | Canberra
Austria | Vienna
Azerbaijan | Baku
the Bahamas | Nassau
Bahrain | Manama
Bangladesh | Dhaka
Barbados | Bridgetown
Belarus | Minsk
Belgium | Brussels
Belize | Belmopan
Benin | Porto-Novo | the government sits in Cotonou
Bhutan | Thimphu
Bolivia | Sucre | the government sits in La Paz
Bosnia and Herzegovina | Sarajevo || Bosnia; Bosnia & Herzegovina; Bosnia-Herzegovina
Botswana | Gaborone
Brazil | Brasília || Brasil
Brunei | Bandar Seri Begawan || Brunei Darussalam
Bulgaria | Sofia
Burkina Faso | Ouagadougou
Burundi | Gitega
Cambodia | Phnom Penh || Kampuchea
Cameroon | Yaoundé
Canada | Ottawa
Cape Verde | Praia || Cabo Verde
the Central African Republic | Bangui || CAR; the CAR
Chad | N'Djamena
Chile | Santiago
China | Beijing || the People's Republic of China; PR China; mainland China
Colombia | Bogotá
Comoros | Moroni || the Comoros
Congo | Brazzaville | or Kinshasa, if you mean the Democratic Republic | the Congo
the Democratic Republic of the Congo | Kinshasa || the DRC; DRC; DR Congo; Congo-Kinshasa; \
the Democratic Republic of Congo; Zaire
the Republic of the Congo | Brazzaville || Congo-Brazzaville; the Republic of Congo
Costa Rica | San José
Croatia | Zagreb
Cuba | Havana
Cyprus | Nicosia
the Czech Republic | Prague || Czechia
Denmark | Copenhagen
Djibouti | Djibouti City
Dominica | Roseau || the Commonwealth of Dominica
the Dominican Republic | Santo Domingo
East Timor | Dili || Timor-Leste; Timor Leste
Ecuador | Quito
Egypt | Cairo
El Salvador | San Salvador
Equatorial Guinea | Ciudad de la Paz | it was Malabo until 2026
Eritrea | Asmara
Estonia | Tallinn
Eswatini | Mbabane || Swaziland; the Kingdom of Eswatini
Ethiopia | Addis Ababa
Fiji | Suva || the Fiji Islands
Finland | Helsinki
France | Paris || the French Republic
Gabon | Libreville
the Gambia | Banjul || Gambia
Georgia | Tbilisi | or Atlanta, if you mean the US state
the country of Georgia | Tbilisi || Georgia the country; the Republic of Georgia; \
Georgia in the Caucasus; the country Georgia
Germany | Berlin || Deutschland; the Federal Republic of Germany
Ghana | Accra
Greece | Athens
Grenada | Saint George's
Guatemala | Guatemala City
Guinea | Conakry
Guinea-Bissau | Bissau || Guinea Bissau
Guyana | Georgetown
Haiti | Port-au-Prince
Honduras | Tegucigalpa
Hungary | Budapest
Iceland | Reykjavík
India | New Delhi
Indonesia | Jakarta
Iran | Tehran || Persia
Iraq | Baghdad
Ireland | Dublin || the Republic of Ireland; Eire
Israel | Jerusalem | many embassies are in Tel Aviv
Italy | Rome || Italia
Ivory Coast | Yamoussoukro || Côte d'Ivoire; the Ivory Coast
Jamaica | Kingston
Japan | Tokyo
Jordan | Amman
Kazakhstan | Astana
Kenya | Nairobi
Kiribati | South Tarawa
Korea | Seoul | or Pyongyang, if you mean North Korea
North Korea | Pyongyang || the DPRK; DPRK
South Korea | Seoul || the Republic of Korea; ROK
Kosovo | Pristina
Kuwait | Kuwait City
Kyrgyzstan | Bishkek || the Kyrgyz Republic
Laos | Vientiane
Latvia | Riga
Lebanon | Beirut
Lesotho | Maseru
Liberia | Monrovia
Libya | Tripoli
Liechtenstein | Vaduz
Lithuania | Vilnius
Luxembourg | Luxembourg City || Luxemburg
Madagascar | Antananarivo
Malawi | Lilongwe
Malaysia | Kuala Lumpur | the government sits in Putrajaya
the Maldives | Malé || Maldives
Mali | Bamako
Malta | Valletta
the Marshall Islands | Majuro
Mauritania | Nouakchott
Mauritius | Port Louis
Mexico | Mexico City || México
Micronesia | Palikir || the Federated States of Micronesia
Moldova | Chișinău
Monaco | Monaco
Mongolia | Ulaanbaatar
Montenegro | Podgorica
Morocco | Rabat
Mozambique | Maputo
Myanmar | Naypyidaw || Burma
Namibia | Windhoek
Nauru | Yaren | Yaren is a district, for Nauru has no official capital
Nepal | Kathmandu
the Netherlands | Amsterdam | the government sits in The Hague | Holland; Netherlands
New Zealand | Wellington || NZ; Aotearoa
Nicaragua | Managua
Niger | Niamey
Nigeria | Abuja
North Macedonia | Skopje || Macedonia
Norway | Oslo
Oman | Muscat
Pakistan | Islamabad
Palau | Ngerulmud
Palestine | Ramallah | East Jerusalem is the capital it claims | the State of Palestine
Panama | Panama City || Panamá
Papua New Guinea | Port Moresby || PNG
Paraguay | Asunción
Peru | Lima || Perú
the Philippines | Manila || Philippines
Poland | Warsaw
Portugal | Lisbon
Qatar | Doha
Romania | Bucharest
Russia | Moscow || the Russian Federation
Rwanda | Kigali
Saint Kitts and Nevis | Basseterre || St Kitts and Nevis; St. Kitts and Nevis; Saint Kitts
Saint Lucia | Castries || St Lucia; St. Lucia
Saint Vincent and the Grenadines | Kingstown || St Vincent and the Grenadines; \
St. Vincent and the Grenadines; Saint Vincent; St Vincent
Samoa | Apia || Western Samoa
San Marino | San Marino
São Tomé and Príncipe | São Tomé || Sao Tome
Saudi Arabia | Riyadh || KSA; the Kingdom of Saudi Arabia
Senegal | Dakar
Serbia | Belgrade
the Seychelles | Victoria || Seychelles
Sierra Leone | Freetown
Singapore | Singapore
Slovakia | Bratislava || the Slovak Republic
Slovenia | Ljubljana
the Solomon Islands | Honiara
Somalia | Mogadishu
South Africa | Pretoria | parliament meets in Cape Town, the courts in Bloemfontein | RSA
South Sudan | Juba
Spain | Madrid || España
Sri Lanka | Sri Jayawardenepura Kotte | near Colombo | Ceylon
Sudan | Khartoum
Suriname | Paramaribo
Sweden | Stockholm
Switzerland | Bern
Syria | Damascus
Taiwan | Taipei || the Republic of China; ROC
Tajikistan | Dushanbe
Tanzania | Dodoma
Thailand | Bangkok || Siam
Togo | Lomé
Tonga | Nukuʻalofa
Trinidad and Tobago | Port of Spain || Trinidad; Trinidad & Tobago
Tunisia | Tunis
Turkey | Ankara || Türkiye; Turkiye
Turkmenistan | Ashgabat
Tuvalu | Funafuti
Uganda | Kampala
Ukraine | Kyiv || the Ukraine
the United Arab Emirates | Abu Dhabi || the UAE; UAE; the Emirates
the United Kingdom | London || the UK; UK; Great Britain; Britain
the United States | Washington, D.C. || the USA; USA; the US; US; America; \
the United States of America; the States
Uruguay | Montevideo
Uzbekistan | Tashkent
Vanuatu | Port Vila
Vatican City | Vatican City || the Vatican; the Holy See
Venezuela | Caracas
Vietnam | Hanoi || Viet Nam
Yemen | Sanaa
Zambia | Lusaka
Zimbabwe | Harare
"""
